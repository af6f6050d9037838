"""What training on the terminal response alone and its weights do to the gradient, and how far policies moved.

    python -m bench.analysis --model BASE --rollouts RUNS/JOB/dataset/rollout-0 [--groups 16] [--beta 0.1 ...]
        [--policy NAME=EXPORT ... --contexts RUNS/JOB/dataset/evaluate-0-0 --episodes 64] [--json FILE]

**Proposition 6** argues that leaving out the verifier-rejected turns trades a bias for less variance. Terminal-only
(paper eqs. 14, 15) is compared at the base policy, over recorded groups, with two estimators that use every turn:

- `full_trajectory`, the paper's eq. 16: the turns' losses added up, each its tokens' mean as in eq. 15. What it has
  and terminal-only lacks is eq. 17, the gradients of the omitted turns.
- `all_turns`, what the objective of that name trains (figure 3): one mean over the tokens of all turns. It also gives
  the terminal response a smaller share, hence the difference is not eq. 17 alone.

A third, `uniform`, is what SFT-5turn trains: the terminal responses again, all of weight 1. Of it the cosines tell how
much of DRIFT's direction the weights make, and the ratios what they cost in variance.

With g_t and g_f the gradients of one group and n the number of groups in a batch of 128 trajectories:

- `batch_cosine` of the means of g_t and of g_f over these groups, the noise that they share and all;
- `expected_cosine` of E g_t and E g_f: null where noise drowns them, which takes more groups the more it drowns;
- `bias_ratio` |E g_t - E g_f|^2 / (tr Cov g_f / n); below 0 where noise hides that there is hardly any;
- `variance_ratio` tr Cov g_t / tr Cov g_f;
- `error_ratio`, the sum of these two: below 1 terminal-only has the smaller squared error as an estimate of E g_f over
  a batch, and the condition of proposition 6 (eqs. 19, 20) holds.

A squared mean over G groups holds tr Cov / G of noise; everything but `batch_cosine` is free of it.

**Endings**: by how a trajectory ended, the share of all trajectories of the part, which is the weight that SFT-5turn
gives them, the share of DRIFT's weight, and how many of the last turns in each have a parsed answer.

**KL**: mean of KL(policy || base), in nats, over the tokens of every response of recorded episodes, each in its own
recorded context. Whose episodes these are the output says: with the base's, how far a policy moved where the base goes.

Intervals are 95 %, by a jackknife over four blocks of groups or of episodes; null is what cannot be told from so few.
Gradients are float32: memory is some 27 times the weights'.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer's own entry sets it

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PreTrainedModel

from bench.analysis_gradients import compare_turns
from bench.analysis_kl import has_response, measure_kl, read_episodes
from bench.jackknife import BLOCKS, Figure
from services.trainer.population import assign_weights
from shared.grading import Verdict
from shared.returns import ReturnSpec
from shared.schema import Schema
from shared.shards import read_part
from shared.trajectory import Trajectory


class Source(Schema):
    """Whose recorded trajectories were taken, and how many."""

    job: str
    part: str
    policy: str
    groups: int
    trajectories: int
    tokens: int
    """Of all responses."""


class Endings(Schema):
    """The trajectories that ended in one way; shares are of all."""

    trajectories: float
    weight: float
    """DRIFT's."""
    answered: float
    """Of these: those whose last response has a parsed answer."""


class Analysis(Schema):
    """What `--json` holds."""

    rollouts: Source
    returns: ReturnSpec
    endings: dict[str, Endings]
    """Of every group of the part that has weights."""
    gradients: dict[str, dict[str, Figure]]
    """Terminal-only against each of the other estimators."""
    contexts: Source | None
    kl: dict[str, Figure]
    """By the policy's name, in nats a token."""


def read_groups(folder: Path, most: int) -> list[list[Trajectory]]:
    """The first groups by number; those with an ungraded or failed trajectory have no weights and are passed over."""
    rows = sorted(read_part(folder), key=lambda one: (one.group, one.k))
    groups = (list(members) for _, members in groupby(rows, key=lambda one: one.group))
    weighable = (group for group in groups if all(one.usable for one in group) and any(map(has_response, group)))
    return list(islice(weighable, most))


def weigh_endings(groups: Sequence[Sequence[Trajectory]], returns: ReturnSpec) -> dict[str, Endings]:
    """Solved at each turn, and not solved."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for group in groups:
        weights = assign_weights(group, "drift", returns)
        for place, one in enumerate(group):
            ending = f"solved at turn {len(one.turns)}" if one.success else "not solved"
            answered = one.turns[-1].verdict is not Verdict.UNPARSABLE
            found.setdefault(ending, []).append((weights[place], answered))
    every = sum(map(len, groups))
    return {
        ending: Endings(
            trajectories=len(members) / every,
            weight=sum(weight for weight, _ in members) / every,
            answered=sum(answered for _, answered in members) / len(members),
        )
        for ending, members in sorted(found.items(), reverse=True)
    }


def describe(trajectories: Sequence[Trajectory]) -> Source:
    first = trajectories[0]
    return Source(
        job=first.job,
        part=first.part,
        policy=first.policy,
        groups=len({one.group for one in trajectories}),
        trajectories=len(trajectories),
        tokens=sum(len(turn.token_ids) for one in trajectories for turn in one.turns),
    )


def show(analysis: Analysis) -> None:
    """A table for each source; its title says what was measured on."""
    gradients = {
        f"terminal against {other}: {name}": one
        for other, figures in analysis.gradients.items()
        for name, one in figures.items()
    }
    divergences = {f"KL({name} || base), nats a token": one for name, one in analysis.kl.items()}
    for source, figures in ((analysis.rollouts, gradients), (analysis.contexts, divergences)):
        if source is None:
            continue
        counted = f"{source.trajectories} trajectories of {source.groups} groups, {source.tokens} response tokens"
        table = Table("figure", "value", "95 % interval", title=f"{source.part} of {source.job}: {counted}")
        table.caption = f"sampled from {source.policy}"
        for name, one in figures.items():
            value, low, high = ("?" if bound is None else f"{bound:.4g}" for bound in (one.value, one.low, one.high))
            table.add_row(name, value, f"{low} to {high}")
        Console().print(table)
    table = Table("ending", "% of trajectories", "% of DRIFT's weight", "% with an answer at the end")
    for ending, one in analysis.endings.items():
        table.add_row(ending, *(f"{100 * share:.1f}" for share in (one.trajectories, one.weight, one.answered)))
    Console().print(table)


def load(folder: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def parse_policy(text: str) -> tuple[str, str]:
    name, _, folder = text.partition("=")
    if not name or not folder or not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER, a Hugging Face folder that is there")
    return name, folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base policy")
    parser.add_argument("--rollouts", type=Path, required=True, help="its rollouts: RUNS/JOB/dataset/rollout-0")
    parser.add_argument("--groups", type=int, default=16)
    for name, field in ReturnSpec.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=field.default, help="of the return")
    parser.add_argument("--policy", action="append", type=parse_policy, default=[], help="NAME=FOLDER; may be repeated")
    parser.add_argument("--contexts", type=Path, help="held-out episodes: RUNS/JOB/dataset/evaluate-0-0")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if bool(arguments.policy) != bool(arguments.contexts):
        parser.error("--policy and --contexts go together")
    if len(dict(arguments.policy)) < len(arguments.policy):
        parser.error("--policy: a name is there twice")
    returns = ReturnSpec(**{name: getattr(arguments, name) for name in ReturnSpec.model_fields})
    every = read_groups(arguments.rollouts, sys.maxsize)
    groups = every[: arguments.groups]
    if len(groups) < BLOCKS:
        parser.error(f"--groups: {len(groups)} groups with weights in {arguments.rollouts}, {BLOCKS} are needed")
    episodes = read_episodes(arguments.contexts, arguments.episodes) if arguments.contexts else []
    if arguments.contexts and len(episodes) < BLOCKS:
        parser.error(f"--episodes: {len(episodes)} in {arguments.contexts}, {BLOCKS} are needed")
    base = load(arguments.model)
    policies = ((name, load(folder)) for name, folder in arguments.policy)
    analysis = Analysis(
        contexts=describe(episodes) if episodes else None,
        kl=measure_kl(policies, base, episodes) if episodes else {},
        rollouts=describe([one for group in groups for one in group]),
        returns=returns,
        endings=weigh_endings(every, returns),
        gradients=compare_turns(base, groups, returns),  # last: it changes the base
    )
    show(analysis)
    if arguments.json:
        arguments.json.write_text(analysis.model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    main()
