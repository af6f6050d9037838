"""What training on the terminal response alone does to the gradient, and how far trained policies moved.

    python -m bench.analysis --model BASE --rollouts RUNS/JOB/dataset/rollout-0 [--groups 16]
        [--policy EXPORT ... --contexts RUNS/JOB/dataset/evaluate-0-0 --trajectories 64] [--json FILE]

**Proposition 6** argues that leaving out the verifier-rejected turns trades a bias for less variance. Over recorded
groups, at the base policy: the cosine of the two mean gradients, the bias as a share of the all-turns gradient's norm,
and the variance of a group's gradient, terminal over all turns. `error_ratio` is their sum for a batch of 128
trajectories against the all-turns gradient: (bias^2 + variance / n) of terminal-only over variance / n of all turns,
where n is the number of groups that would give as many; below 1 terminal-only is the better estimate of both.

**KL**: mean over the response tokens of recorded held-out episodes of KL(policy || base), in nats.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from services.trainer.loss import SupervisedModel, weighted
from services.trainer.population import Population
from shared.returns import ReturnSpec
from shared.shards import read_part
from shared.training import Objective, TrainSpec
from shared.trajectory import Trajectory

BATCH = 128
"""Trajectories of a batch, as in the paper."""


def load(folder: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def read_groups(folder: Path, most: int) -> list[list[Trajectory]]:
    """Complete groups as they were recorded."""
    rows = sorted(read_part(folder), key=lambda one: (one.group, one.k))
    groups = (list(members) for _, members in groupby(rows, key=lambda one: one.group))
    return list(islice(groups, most))


def gradients(model: SupervisedModel, groups: Sequence[list[Trajectory]], objective: Objective) -> Iterator[Tensor]:
    """Of each group's mean weighted loss (paper eqs. 14, 15), flat."""
    for group in groups:
        population = Population(ReturnSpec(), TrainSpec(objective=objective, epsilon=0))
        population.add(group)
        model.model.zero_grad()
        for member in population.members:
            (weighted(model.sum_nll(member.examples), member.examples) / len(group)).backward()
        yield torch.cat([one.grad.flatten() for one in model.model.parameters() if one.grad is not None])


def summarise(found: Iterator[Tensor]) -> tuple[Tensor, float]:
    """The mean gradient, and the trace of a single group's covariance."""
    total, squares, count = torch.zeros(()), 0.0, 0
    for gradient in found:
        total, squares, count = total + gradient, squares + float(gradient.square().sum()), count + 1
    mean = total / count
    return mean, (squares / count - float(mean.square().sum())) * count / max(count - 1, 1)


def compare_turns(model: SupervisedModel, groups: Sequence[list[Trajectory]]) -> dict[str, float]:
    """Terminal-only against all turns."""
    terminal, variance = summarise(gradients(model, groups, "drift"))
    every, variance_of_every = summarise(gradients(model, groups, "all_turns"))
    bias = float((terminal - every).norm())
    n = BATCH / len(groups[0])
    return {
        "groups": len(groups),
        "cosine_terminal_all_turns": float(torch.cosine_similarity(terminal, every, dim=0)),
        "relative_bias": bias / float(every.norm()),
        "variance_ratio": variance / variance_of_every,
        "error_ratio": (bias**2 + variance / n) / (variance_of_every / n),
    }


@torch.no_grad()
def measure_kl(policy: PreTrainedModel, base: PreTrainedModel, episodes: Sequence[Trajectory]) -> float:
    """Mean KL(policy || base) over the tokens of the episodes' last responses, in nats."""
    total, tokens = 0.0, 0
    for episode in episodes:
        turn = episode.turns[-1]
        ids = torch.tensor([[*turn.prompt_token_ids, *turn.token_ids]])
        start = len(turn.prompt_token_ids) - 1
        log_p, log_q = (model(input_ids=ids).logits[0, start:-1].log_softmax(-1) for model in (policy, base))
        total += float((log_p.exp() * (log_p - log_q)).sum())
        tokens += len(turn.token_ids)
    return total / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base policy")
    parser.add_argument("--rollouts", type=Path, required=True, help="its rollouts: RUNS/JOB/dataset/rollout-0")
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--policy", action="append", default=[], help="folder of a trained policy; may be repeated")
    parser.add_argument("--contexts", type=Path, help="held-out episodes: RUNS/JOB/dataset/evaluate-0-0")
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.policy and not arguments.contexts:
        parser.error("--policy needs --contexts")
    base = load(arguments.model)
    figures: dict[str, float] = {}
    if arguments.policy:
        episodes = list(islice((one for one in read_part(arguments.contexts) if one.turns), arguments.trajectories))
        for folder in arguments.policy:
            figures[f"kl {folder}"] = measure_kl(load(folder), base, episodes)
    # After the KL: its output layer gives -log p from here on.
    figures |= compare_turns(
        SupervisedModel(base, torch.device("cpu")), read_groups(arguments.rollouts, arguments.groups)
    )
    for name, value in figures.items():
        print(f"{name:40} {value:.4g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
