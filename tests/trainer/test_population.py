"""Promises of the population: the weights of each objective, what is skipped, resampled, held out, truncated."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.loss import SupervisedModel
from services.trainer.plan import make_plan
from services.trainer.population import (
    choose_skipped,
    cut_examples,
    fit_context,
    is_held_out,
    make_population,
    resample,
)
from shared.errors import SpecError
from shared.grading import Verdict
from shared.returns import ReturnSpec
from shared.training import Objective, TrainSpec
from shared.trajectory import Trajectory
from tests.trainer.tiny import END, make_groups, make_model, make_trajectory

RIGHT, WRONG, UNPARSABLE = Verdict.CORRECT, Verdict.INCORRECT, Verdict.UNPARSABLE
weights = st.lists(st.floats(0, 16), min_size=1, max_size=32)


def make_conversation(k: int, verdicts: list[Verdict], answers: str) -> Trajectory:
    """Response t of trajectory k is the tokens [10 + k, 20 + t, END]; each context holds what came before."""
    one = make_trajectory(k=k, verdicts=verdicts, answers=answers)
    prompt, turns = [1, 4], []
    for place, turn in enumerate(one.turns):
        tokens = [10 + k, 20 + place, END]
        turns.append(turn.model_copy(update={"prompt_token_ids": list(prompt), "token_ids": tokens}))
        prompt += [*tokens, 5, 6]
    return one.model_copy(update={"turns": turns})


GROUP = [
    make_conversation(0, [RIGHT], "B"),  # R = 1
    make_conversation(1, [WRONG, RIGHT], "AB"),  # R = 0.9
    make_conversation(2, [WRONG, WRONG, RIGHT], "AAB"),  # R = 0.81 - 0.5 (1 - 2/3)
    make_conversation(3, [WRONG, UNPARSABLE, WRONG], "A-A"),  # R = -0.5 (1 - 1/2) - 0.1
]
_TILTS = [math.exp(10 * value) for value in (1, 0.9, 0.81 - 0.5 / 3, -0.25 - 0.1)]
TILTED = {k: 4 * tilt / sum(_TILTS) for k, tilt in enumerate(_TILTS)}


@pytest.mark.parametrize(
    ("objective", "weight_of", "every_turn"),
    [
        ("drift", TILTED, False),
        ("all_turns", TILTED, True),
        ("uniform", dict.fromkeys(range(4), 1.0), False),
        ("star", {1: 1.0}, False),
        ("single_turn", {0: 1.0}, False),
    ],
)
def test_an_objective_trains_its_population_with_its_weights_on_its_responses(
    objective: Objective, weight_of: dict[int, float], every_turn: bool
) -> None:
    """Written out by hand from the paper: eqs. 12 to 15, D.1 (SFT-5turn, STaR-2turn) and figure 3's all-turns."""
    population = make_population(GROUP, ReturnSpec(), TrainSpec(objective=objective, epsilon=0))
    trained: dict[int, list[tuple[float, list[list[int]]]]] = {}
    for member in population.members:
        (example,) = member.examples
        supervised = [example.tokens[slice(*span)] for span in example.spans]
        share = example.coefficient * sum(map(len, supervised))
        assert share == pytest.approx(member.weight), "w_i / |y_i| for each of |y_i| tokens"
        trained.setdefault(int(example.trajectory[-1]), []).append((share, supervised))
    wanted = {
        k: [(pytest.approx(weight), [[10 + k, 20 + turn, END] for turn in range(len(GROUP[k].turns))])]
        for k, weight in weight_of.items()
    }
    if not every_turn:
        wanted = {k: [(weight, responses[-1:])] for k, [(weight, responses)] in wanted.items()}
    assert trained == wanted


@given(weights, st.floats(0, 0.5))
def test_what_is_skipped_weighs_less_than_epsilon_of_its_group(group: list[float], epsilon: float) -> None:
    skipped = choose_skipped(group, epsilon)
    assert math.fsum(group[place] for place in skipped) <= epsilon * math.fsum(group)
    if skipped and len(skipped) < len(group):
        kept = set(range(len(group))) - skipped
        assert max(group[place] for place in skipped) <= min(group[place] for place in kept)


@given(weights)
def test_epsilon_zero_skips_nothing(group: list[float]) -> None:
    assert choose_skipped(group, 0.0) == set()


@settings(max_examples=10)
@given(st.integers(0, 1000), st.sampled_from([1e-3, 1e-2, 0.1]))
def test_the_skipped_mass_bounds_what_skipping_does_to_the_gradient(seed: int, epsilon: float) -> None:
    """|g - g'| <= G m for an epoch's gradient, G the largest gradient of one trajectory, m the reported mass."""
    groups = make_groups(groups=3, seed=seed)
    every = make_population(groups, ReturnSpec(), TrainSpec(epsilon=0))
    some = make_population(groups, ReturnSpec(), TrainSpec(epsilon=epsilon))
    assert some.skipped_mass < epsilon
    model = make_model(seed).double()
    supervised = SupervisedModel(model, torch.device("cpu"))
    kept = {example.trajectory for member in some.members for example in member.examples}
    size = sum(parameter.numel() for parameter in model.parameters())
    full, without = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    largest = 0.0
    for member in every.members:
        (example,) = member.examples
        model.zero_grad()
        supervised.sum_nll([example]).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        largest = max(largest, float(gradient.norm()) * example.coefficient / member.weight)
        full += gradient * example.coefficient / len(every.members)
        without += gradient * example.coefficient / len(every.members) * (example.trajectory in kept)
    assert float((full - without).norm()) <= largest * some.skipped_mass * (1 + 1e-5)


@given(weights.filter(lambda group: sum(group) > 0), st.floats(0, 1, exclude_max=True))
def test_resampling_draws_each_by_its_weight_rounded_up_or_down(group: list[float], offset: float) -> None:
    draws = Counter(resample(group, offset))
    assert draws.total() == len(group)
    assert all(group[index] > 0 for index in draws)
    for index, weight in enumerate(group):
        wanted = weight * len(group) / math.fsum(group)
        assert math.floor(wanted - 1e-9) <= draws[index] <= math.ceil(wanted + 1e-9)


@given(weights.filter(lambda group: sum(group) > 0))
def test_resampling_draws_each_by_its_weight_in_expectation(group: list[float]) -> None:
    """A number of draws is a step function of the offset with two steps: a grid of M offsets is off by 2/M at most."""
    grid = 400
    draws = Counter(index for place in range(grid) for index in resample(group, (place + 0.5) / grid))
    for index, weight in enumerate(group):
        assert abs(draws[index] / grid - weight * len(group) / math.fsum(group)) <= 2 / grid + 1e-9


def test_resampled_epochs_have_the_weighted_loss_as_their_mean() -> None:
    groups = make_groups(groups=6)
    wanted = {
        example.trajectory: example.coefficient / 24
        for member in make_population(groups, ReturnSpec(), TrainSpec(epsilon=0)).members
        for example in member.examples
    }
    epochs = 2000
    train = TrainSpec(epochs=epochs, batch_size=24, weighting="resampling")
    plan = make_plan(groups, ReturnSpec(), train)
    assert plan.steps == epochs and plan.population.skipped == 0
    drawn: dict[str, float] = dict.fromkeys(wanted, 0.0)
    for step in range(plan.steps):
        batch = plan.batch(step)
        lengths = {one.trajectory: sum(stop - start for start, stop in one.spans) for one in batch}
        assert sum(one.coefficient * lengths[one.trajectory] for one in batch) == pytest.approx(1)
        for one in batch:
            times = one.coefficient * lengths[one.trajectory] * 24
            assert times == pytest.approx(round(times)), "every draw weighs 1"
            drawn[one.trajectory] += one.coefficient / epochs
    for trajectory, coefficient in wanted.items():
        assert drawn[trajectory] == pytest.approx(coefficient, abs=4 / 24 / math.sqrt(epochs))


@given(st.integers(0, 1000), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_larger_held_out_share_holds_out_the_same_problems_and_more(seed: int, one: float, other: float) -> None:
    problems = [f"{seed}-{place}" for place in range(50)]
    small, large = sorted((one, other))
    assert {p for p in problems if is_held_out(p, small)} <= {p for p in problems if is_held_out(p, large)}


def test_about_the_held_out_share_is_held_out() -> None:
    assert sum(is_held_out(f"p{place}", 0.2) for place in range(10_000)) == pytest.approx(2000, abs=160)


@pytest.mark.parametrize("objective", ["drift", "uniform", "star", "single_turn", "all_turns"])
@pytest.mark.parametrize("weighting", ["loss", "resampling"])
def test_held_out_groups_are_measured_and_never_trained_on(objective: Objective, weighting: str) -> None:
    groups = make_groups(groups=40)
    spec = {"objective": objective, "weighting": weighting, "epochs": 3, "batch_size": 16}
    plan = make_plan(groups, ReturnSpec(), TrainSpec.model_validate(spec | {"held_out": 0.25}))
    held_out = {one.id for one in groups if is_held_out(one.problem.id, 0.25)}
    measured = {example.trajectory for example in plan.held_out()}
    trained = {example.trajectory for step in range(plan.steps) for example in plan.batch(step)}
    assert trained and not trained & held_out
    assert measured and measured <= held_out
    assert plan.population.held_out_groups == len({one.rsplit(":", 1)[0] for one in measured})
    share = sum(one.coefficient * sum(stop - start for start, stop in one.spans) for one in plan.held_out())
    assert share == pytest.approx(1, abs=1e-3), "weights of mean 1"
    assert make_plan(groups, ReturnSpec(), TrainSpec.model_validate(spec)).held_out() == []


def test_a_share_too_small_to_hold_out_anything_is_an_error() -> None:
    with pytest.raises(SpecError, match=r"holds out none of 6 groups"):
        make_population(make_groups(groups=6), ReturnSpec(), TrainSpec(held_out=1e-6))


def test_spoiled_groups_carry_no_weights_and_are_counted() -> None:
    groups = make_groups(groups=4)
    spoiled = [one.model_copy(update={"ending": "ungraded"}) if (one.group, one.k) == (2, 1) else one for one in groups]
    plan = make_plan(spoiled, ReturnSpec(), TrainSpec(epochs=1, batch_size=4, epsilon=0))
    assert plan.population.composition.spoiled == 1 and plan.population.composition.complete == 3
    assert len(plan.population.members) == 12
    drawn = {one.trajectory for step in range(plan.steps) for one in plan.batch(step)}
    assert drawn == {one.id for one in groups if one.group != 2}


def test_all_wrong_groups_are_kept_or_dropped() -> None:
    groups = [
        make_trajectory(group=group, k=k, group_size=2, verdicts=[WRONG if group else RIGHT])
        for group in (0, 1)
        for k in (0, 1)
    ]
    kept = make_population(groups, ReturnSpec(), TrainSpec())
    dropped = make_population(groups, ReturnSpec(), TrainSpec(all_wrong="drop"))
    assert (len(kept.members), len(dropped.members)) == (4, 2)
    assert kept.composition == dropped.composition and kept.composition.all_wrong == 1


def test_no_weight_at_all_is_an_error_with_a_remedy() -> None:
    with pytest.raises(SpecError, match=r"'star': 1 all_wrong.*Choose another objective"):
        make_plan([make_trajectory(group_size=1, verdicts=[WRONG])], ReturnSpec(), TrainSpec(objective="star"))


def test_nothing_that_fits_is_an_error_and_not_a_training_of_nothing() -> None:
    with pytest.raises(SpecError, match=r"None of the 24 trajectories.*fits into 16 tokens.*`train.max_length`"):
        make_plan([lengthen(one, 20) for one in make_groups()], ReturnSpec(), TrainSpec(max_length=16))


def lengthen(one: Trajectory, tokens: int) -> Trajectory:
    turns = [turn.model_copy(update={"prompt_token_ids": [1] * tokens + turn.prompt_token_ids}) for turn in one.turns]
    return one.model_copy(update={"turns": turns})


def test_all_turns_supervises_every_response_in_one_sequence() -> None:
    one = make_trajectory(verdicts=[WRONG, WRONG, RIGHT], group_size=1, seed=3)
    turns = [turn.model_copy(update={"token_ids": [9, 10, END]}) for turn in one.turns]
    prompts = [[1, 4]]
    for turn in turns[:-1]:
        prompts.append([*prompts[-1], *turn.token_ids, 5, 6])
    turns = [turn.model_copy(update={"prompt_token_ids": prompt}) for turn, prompt in zip(turns, prompts, strict=True)]
    cut = cut_examples(one.model_copy(update={"turns": turns}), 2.0, "all_turns", 100)
    (example,) = cut.examples
    assert [example.tokens[slice(*span)] for span in example.spans] == [[9, 10, END]] * 3
    assert example.coefficient == pytest.approx(2.0 / 9)


def test_all_turns_keeps_apart_what_the_engine_tokenised_anew() -> None:
    one = make_trajectory(verdicts=[WRONG, RIGHT], group_size=1)
    second = one.turns[1].model_copy(update={"prompt_token_ids": [1, 50, 51]})
    cut = cut_examples(one.model_copy(update={"turns": [one.turns[0], second]}), 1.0, "all_turns", 100)
    assert [len(example.spans) for example in cut.examples] == [1, 1]


def test_a_long_context_loses_its_earliest_turns_and_keeps_the_problem() -> None:
    one = make_trajectory(verdicts=[WRONG, WRONG, WRONG, RIGHT], group_size=1)
    first, second, third, last = (turn.prompt_token_ids for turn in one.turns)
    assert fit_context(one.turns, len(last)) == last
    assert fit_context(one.turns, len(last) - 1) == first + last[len(second) :]
    room = len(first) + len(last) - len(third)
    assert fit_context(one.turns, room) == first + last[len(third) :]
    assert fit_context(one.turns, len(first)) == first, "all earlier turns gone"
    assert fit_context(one.turns, len(first) - 1) is None


def test_truncated_and_too_long_trajectories_are_counted() -> None:
    groups = make_groups(groups=6)
    longest = max(len(one.turns[-1].prompt_token_ids) + len(one.turns[-1].token_ids) for one in groups)
    train = TrainSpec(epsilon=0)
    population = make_population(groups, ReturnSpec(), train.model_copy(update={"max_length": longest - 1}))
    assert population.truncated >= 1 and population.too_long == 0
    population = make_population(groups, ReturnSpec(), train.model_copy(update={"max_length": 12}))
    assert population.too_long >= 1 and len(population.members) == 24, "what does not fit still counts in |B|"
