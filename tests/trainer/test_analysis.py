"""`bench.analysis`: gradients are the trainer's, noise is not taken for bias, and the KL is that of every response."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from bench.analysis import Analysis, main, read_groups, weigh_endings
from bench.analysis_gradients import ESTIMATORS, compare, differentiate, gather
from bench.analysis_kl import measure_kl, read_episodes
from bench.jackknife import BLOCKS, jackknife
from services.trainer.loss import SupervisedModel, weighted
from services.trainer.population import Population
from shared.grading import Verdict
from shared.returns import ReturnSpec
from shared.shards import write_shard
from shared.training import Objective, TrainSpec
from shared.trajectory import Trajectory, Turn
from tests.trainer.tiny import make_groups, make_model, make_trajectory, save_model

CPU = torch.device("cpu")
RETURNS = ReturnSpec()
WRONG, RIGHT = Verdict.INCORRECT, Verdict.CORRECT


def a_group() -> list[Trajectory]:
    """Endings at every turn; the third's first answer reappears differently in its second context."""
    verdicts = [[RIGHT], [WRONG, RIGHT], [WRONG, WRONG, RIGHT], [WRONG, WRONG, WRONG]]
    group = [make_trajectory(k=k, verdicts=one) for k, one in enumerate(verdicts)]
    return [*group[:2], retokenise(group[2]), group[3]]


def retokenise(trajectory: Trajectory) -> Trajectory:
    """The same with its first answer's first token as two others in the later contexts."""
    first = trajectory.turns[0]
    length = len(first.prompt_token_ids)
    later = [
        one.model_copy(
            update={"prompt_token_ids": [*first.prompt_token_ids, 60, 61, *one.prompt_token_ids[length + 1 :]]}
        )
        for one in trajectory.turns[1:]
    ]
    return trajectory.model_copy(update={"turns": [first, *later]})


def measured(group: Sequence[Trajectory], returns: ReturnSpec = RETURNS) -> Tensor:
    """What `bench.analysis` makes of it, shape [estimators, weights]."""
    model = make_model()
    into = torch.empty(len(ESTIMATORS), model.num_parameters())
    return differentiate(SupervisedModel(model, CPU), group, returns, into)


def gradient(model: LlamaForCausalLM, loss: Tensor) -> Tensor:
    return torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(model.parameters()))])


def trained(group: Sequence[Trajectory], objective: Objective, returns: ReturnSpec = RETURNS) -> Tensor:
    """What the trainer makes of one group, nothing skipped."""
    model = make_model()
    supervised = SupervisedModel(model, CPU)
    population = Population(returns, TrainSpec(objective=objective, epsilon=0))
    population.add(group)
    examples = [example.times(1 / len(group)) for member in population.members for example in member.examples]
    return gradient(model, weighted(supervised.sum_nll(examples), examples))


def log_p(model: LlamaForCausalLM, turn: Turn) -> Tensor:
    """Of one response's tokens in its own recorded context, shape [tokens, vocabulary]."""
    ids = torch.tensor([turn.prompt_token_ids + turn.token_ids])
    return model(input_ids=ids).logits[0, len(turn.prompt_token_ids) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize(
    ("estimator", "objective"), [("terminal", "drift"), ("all_turns", "all_turns"), ("uniform", "uniform")]
)
@pytest.mark.parametrize("returns", [RETURNS, ReturnSpec(beta=1.0, format_penalty=0)])
def test_a_gradient_is_the_one_that_the_trainer_takes(
    estimator: str, objective: Objective, returns: ReturnSpec
) -> None:
    found = measured(a_group(), returns)
    torch.testing.assert_close(
        found[ESTIMATORS.index(estimator)], trained(a_group(), objective, returns), atol=1e-5, rtol=1e-4
    )


def test_the_full_trajectory_adds_the_gradients_of_the_omitted_turns() -> None:
    """Paper eq. 17, each turn's loss its tokens' mean."""
    group = a_group()
    found = measured(group)
    population = Population(RETURNS, TrainSpec(epsilon=0))
    population.add(group)
    model = make_model()
    omitted = torch.zeros(())
    for one, member in zip(group, population.members, strict=True):
        for turn in one.turns[:-1]:
            nll = -log_p(model, turn).gather(1, torch.tensor(turn.token_ids)[:, None])
            omitted = omitted + member.weight * nll.mean() / len(group)
    torch.testing.assert_close(found[2] - found[0], gradient(model, omitted), atol=1e-5, rtol=1e-4)


def draw(groups: int, seed: int) -> Tensor:
    """Groups' gradients whose expectation is the same for all estimators, shape [groups, estimators, 50]."""
    noise = torch.randn(groups, len(ESTIMATORS), 50, generator=torch.Generator().manual_seed(seed))
    return 0.3 + noise * torch.tensor([1.0, 2.0, 3.0, 2.0])[:, None]


def test_noise_is_not_taken_for_bias() -> None:
    """Without a bias `error_ratio` is the ratio of the variances, 1 / 9."""
    sets = [draw(8, seed) for seed in range(300)]
    found = [compare(gather(one, 50), range(BLOCKS), "full_trajectory", 4) for one in sets]
    assert sum(one["variance_ratio"] for one in found) / 300 == pytest.approx(1 / 9, abs=0.01)
    assert sum(one["error_ratio"] for one in found) / 300 == pytest.approx(1 / 9, abs=0.05)
    differences = [float((one[:, 0] - one[:, 2]).mean(0).square().sum()) for one in sets]
    assert 4 * sum(differences) / 300 / (9 * 50) > 0.5  # what the sample means' difference would add to it


def test_a_figure_of_some_blocks_is_that_of_their_groups_pair_by_pair() -> None:
    gradients = draw(10, 0)
    kept = gradients[[place for place in range(10) if place % BLOCKS in (0, 2, 3)]].double()
    found = compare(gather(gradients, 50), [0, 2, 3], "all_turns", 16)
    pairs = [(i, j) for i in range(len(kept)) for j in range(len(kept)) if i != j]

    def product(a: int, b: int) -> float:
        return sum(float(kept[i, a] @ kept[j, b]) for i, j in pairs) / len(pairs)

    bias = product(0, 0) - 2 * product(0, 1) + product(1, 1)
    variances = [float(kept[:, one].var(0).sum()) for one in (0, 1)]
    means = kept.mean(0)
    assert found == pytest.approx(
        {
            "batch_cosine": float(torch.cosine_similarity(means[0], means[1], dim=0)),
            "expected_cosine": product(0, 1) / math.sqrt(product(0, 0) * product(1, 1)),
            "bias_ratio": bias / (variances[1] / 16),
            "variance_ratio": variances[0] / variances[1],
            "error_ratio": (bias + variances[0] / 16) / (variances[1] / 16),
        },
        rel=1e-4,
    )


def test_an_interval_holds_the_mean_nineteen_times_in_twenty() -> None:
    values = torch.randn(2000, 3 * BLOCKS, generator=torch.Generator().manual_seed(0)) + 5
    inside = 0
    for one in values.view(2000, BLOCKS, 3):
        figure = jackknife(lambda kept, one=one: {"mean": float(one[list(kept)].mean())})["mean"]
        assert figure.low is not None and figure.high is not None
        inside += figure.low < 5 < figure.high
    assert inside / 2000 == pytest.approx(0.95, abs=0.02)


def test_what_noise_leaves_undefined_is_null() -> None:
    figure = jackknife(lambda kept: {"ratio": 1.0 if len(kept) == BLOCKS else math.nan})["ratio"]
    assert (figure.value, figure.low, figure.high) == (1.0, None, None)


@torch.no_grad()
def test_the_kl_is_the_mean_over_every_response_in_its_own_context() -> None:
    base, policy = make_model(0), make_model(1)
    episodes = [*a_group(), *make_groups(groups=1)]
    wanted: list[Tensor] = []
    for turn in (turn for one in episodes for turn in one.turns):
        p, q = log_p(policy, turn), log_p(base, turn)
        wanted.append((p.exp() * (p - q)).sum(1))
    found = measure_kl([("same", base), ("other", policy)], base, episodes)
    assert found["same"].value == 0
    assert found["other"].value == pytest.approx(float(torch.cat(wanted).mean()), rel=1e-4)


def test_endings_have_all_of_the_weight_and_the_soonest_successes_most_of_it() -> None:
    found = weigh_endings([a_group()], ReturnSpec(repeat_penalty=0))
    assert list(found) == ["solved at turn 3", "solved at turn 2", "solved at turn 1", "not solved"]
    assert sum(one.weight for one in found.values()) == pytest.approx(1)
    assert {one.trajectories for one in found.values()} == {0.25}
    tilts = [math.exp(value / 0.1) for value in (0.81, 0.9, 1.0, 0.0)]
    assert [one.weight for one in found.values()] == pytest.approx([tilt / sum(tilts) for tilt in tilts])


def test_episodes_come_by_their_groups_and_not_as_they_ended(tmp_path: Path) -> None:
    for group in (3, 0, 2):
        write_shard(tmp_path, [make_trajectory(group=group, k=k, group_size=2) for k in range(2)])
    assert [(one.group, one.k) for one in read_episodes(tmp_path, 4)] == [(0, 0), (2, 0), (3, 0), (0, 1)]


def test_groups_without_weights_are_passed_over(tmp_path: Path) -> None:
    groups = make_groups(groups=4)
    for place, ending in ((5, "ungraded"), (8, "failed")):
        groups[place] = groups[place].model_copy(update={"ending": ending})
    write_shard(tmp_path, groups)
    assert [one[0].group for one in read_groups(tmp_path, 2)] == [0, 3]


def test_the_program_writes_every_figure_by_the_policies_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, other = str(save_model(tmp_path / "base")), save_model(tmp_path / "other", seed=1)
    write_shard(tmp_path / "rollout-0", make_groups(groups=6))
    episodes = [make_trajectory("held-out", group=group, group_size=1) for group in range(5)]
    write_shard(tmp_path / "evaluate-0-0", episodes)
    arguments = [
        "analysis", "--model", base, "--rollouts", str(tmp_path / "rollout-0"), "--groups", "5", "--beta", "0.5",
        "--policy", f"drift={other}", "--policy", f"base={base}", "--contexts", str(tmp_path / "evaluate-0-0"),
        "--episodes", "4", "--json", str(tmp_path / "figures.json"),
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    found = Analysis.model_validate_json((tmp_path / "figures.json").read_text())
    assert found.returns == ReturnSpec(beta=0.5)
    assert (found.rollouts.job, found.rollouts.groups, found.rollouts.trajectories) == ("job", 5, 20)
    assert found.contexts is not None
    assert (found.contexts.job, found.contexts.policy, found.contexts.trajectories) == ("held-out", "base", 4)
    assert found.kl["base"].value == 0
    assert (found.kl["drift"].value or 0) > 0
    for other in ESTIMATORS[1:]:
        defined = {name for name, one in found.gradients[other].items() if one.value is not None}
        assert defined >= {"batch_cosine", "bias_ratio", "variance_ratio", "error_ratio"}
