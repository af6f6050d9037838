"""Promises of the plan: weights, skipping, batches, micro-batches, truncation."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.plan import (
    Example,
    choose_skipped,
    count_steps,
    cut_examples,
    fit_context,
    make_plan,
    split_batch,
)
from shared.errors import SpecError
from shared.grading import Verdict
from shared.job import TrainSpec
from shared.returns import ReturnSpec, score_trajectory, weigh
from tests.trainer.tiny import END, make_groups, make_trajectory

RIGHT, WRONG = Verdict.CORRECT, Verdict.INCORRECT
weights = st.lists(st.floats(0, 16), min_size=1, max_size=32)


def make_examples(lengths: list[int]) -> list[Example]:
    return [
        Example(trajectory=str(place), tokens=[1] * length, spans=[(length - 1, length)], coefficient=1.0)
        for place, length in enumerate(lengths)
    ]


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


def test_skipping_leaves_population_steps_and_the_other_coefficients_unchanged() -> None:
    groups = make_groups(groups=20)
    every = make_plan(groups, ReturnSpec(), TrainSpec(epochs=2, batch_size=8, epsilon=0))
    some = make_plan(groups, ReturnSpec(), TrainSpec(epochs=2, batch_size=8, epsilon=1e-2))
    assert every.skipped == 0 and every.skipped_mass == 0
    assert some.skipped > 0 and 0 < some.skipped_mass < 1e-2 and 0 < some.skipped_token_share < 1
    assert len(some.examples) == len(every.examples) == 80 and some.steps == every.steps == 20
    for step in range(some.steps):
        kept = {(one.trajectory, one.coefficient) for one in some.batch(step)}
        assert kept <= {(one.trajectory, one.coefficient) for one in every.batch(step)}


def test_an_epoch_brings_every_trajectory_once_with_its_weight_over_its_length() -> None:
    groups = make_groups(groups=8)
    plan = make_plan(groups, ReturnSpec(), TrainSpec(epochs=1, batch_size=8, epsilon=0))
    drawn = [example for step in range(plan.steps) for example in plan.batch(step)]
    assert Counter(example.trajectory for example in drawn) == Counter(one.id for one in groups)
    for group in range(8):
        members = [one for one in groups if one.group == group]
        tilted = weigh([score_trajectory(one, ReturnSpec()).value for one in members], 0.1)
        for one, weight in zip(members, tilted, strict=True):
            example = next(example for example in drawn if example.trajectory == one.id)
            terminal = one.turns[-1]
            assert example.coefficient == pytest.approx(weight / len(terminal.token_ids) / 8)
            assert example.tokens == terminal.prompt_token_ids + terminal.token_ids
            assert [example.tokens[slice(*span)] for span in example.spans] == [terminal.token_ids]


def test_the_end_token_is_supervised_exactly_when_the_model_produced_it() -> None:
    groups = make_groups(groups=12)
    plan = make_plan(groups, ReturnSpec(), TrainSpec(epochs=1, batch_size=48, epsilon=0))
    reasons = {one.id: one.turns[-1].finish_reason for one in groups}
    assert set(reasons.values()) == {"stop", "length"}
    for example in plan.batch(0):
        start, stop = example.spans[-1]
        assert stop == len(example.tokens)
        assert (END in example.tokens[start:stop]) == (reasons[example.trajectory] == "stop")


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 16))
def test_every_batch_counts_exactly_the_batch_size(population: int, batch_size: int) -> None:
    groups = [make_trajectory(group=group, group_size=1) for group in range(population)]
    train = TrainSpec(epochs=1.5, batch_size=batch_size, objective="uniform")
    plan = make_plan(groups, ReturnSpec(), train)
    assert plan.steps == math.ceil(1.5 * population / batch_size)
    for step in range(plan.steps):
        batch = plan.batch(step)
        total = sum(one.coefficient * (one.spans[0][1] - one.spans[0][0]) for one in batch)
        assert total == pytest.approx(1), "weights of 1 over |B| trajectories sum to 1"


def test_the_order_depends_on_the_seed_alone() -> None:
    groups = make_groups(groups=10)
    plans = [
        make_plan(rows, ReturnSpec(), TrainSpec(batch_size=8, seed=seed))
        for rows, seed in ((groups, 1), (list(reversed(groups)), 1), (groups, 2))
    ]
    orders = [[one.trajectory for step in range(5) for one in plan.batch(step)] for plan in plans]
    assert orders[0] == orders[1] != orders[2]


def test_steps_are_given_or_follow_from_epochs_or_are_the_papers() -> None:
    assert count_steps(1000, TrainSpec(steps=7)) == 7
    assert count_steps(1000, TrainSpec(epochs=1, batch_size=128)) == 8
    assert count_steps(1000, TrainSpec()) == 200


@given(st.lists(st.integers(2, 300), max_size=40), st.integers(1, 8), st.integers(64, 1024))
def test_a_split_loses_nothing_and_gives_every_rank_as_many_micro_batches(
    lengths: list[int], ranks: int, budget: int
) -> None:
    examples = make_examples(lengths)
    split = split_batch(examples, ranks, budget)
    assert len(split) == ranks and len({len(share) for share in split}) == 1 and len(split[0]) >= 1
    flat = [example.trajectory for share in split for micro in share for example in micro]
    assert sorted(flat) == sorted(example.trajectory for example in examples)
    for micro in (micro for share in split for micro in share):
        assert len(micro) <= 1 or len(micro) * max(len(example.tokens) for example in micro) <= budget


@given(st.lists(st.integers(2, 300), min_size=1, max_size=60), st.integers(2, 8))
def test_ranks_carry_about_the_same_number_of_tokens(lengths: list[int], ranks: int) -> None:
    split = split_batch(make_examples(lengths), ranks, 512)
    loads = [sum(len(example.tokens) for micro in share for example in micro) for share in split]
    assert max(loads) - min(loads) <= max(lengths)


def test_spoiled_groups_carry_no_weights_and_are_counted() -> None:
    groups = make_groups(groups=4)
    spoiled = [one.model_copy(update={"ending": "ungraded"}) if (one.group, one.k) == (2, 1) else one for one in groups]
    plan = make_plan(spoiled, ReturnSpec(), TrainSpec(epochs=1, batch_size=4, epsilon=0))
    assert plan.composition.spoiled == 1 and plan.composition.complete == 3 and len(plan.examples) == 12
    drawn = {one.trajectory for step in range(plan.steps) for one in plan.batch(step)}
    assert drawn == {one.id for one in groups if one.group != 2}


def test_objectives_choose_their_population() -> None:
    group = [
        make_trajectory(k=0, verdicts=[RIGHT]),
        make_trajectory(k=1, verdicts=[WRONG, RIGHT], answers="AB"),
        make_trajectory(k=2, verdicts=[WRONG, WRONG, RIGHT], answers="ACB"),
        make_trajectory(k=3, verdicts=[WRONG, WRONG, WRONG], answers="ACA"),
    ]
    chosen = {
        objective: {int(one.trajectory[-1]) for one in plan.batch(0)}
        for objective in ("drift", "uniform", "star", "single_turn", "all_turns")
        for plan in [make_plan(group, ReturnSpec(), TrainSpec(objective=objective, batch_size=4, epsilon=0))]
    }
    every = {0, 1, 2, 3}
    assert chosen == {"drift": every, "uniform": every, "star": {1}, "single_turn": {0}, "all_turns": every}


def test_all_wrong_groups_are_kept_or_dropped() -> None:
    groups = [
        make_trajectory(group=group, k=k, group_size=2, verdicts=[WRONG if group else RIGHT])
        for group in (0, 1)
        for k in (0, 1)
    ]
    kept = make_plan(groups, ReturnSpec(), TrainSpec())
    dropped = make_plan(groups, ReturnSpec(), TrainSpec(all_wrong="drop"))
    assert (len(kept.examples), len(dropped.examples)) == (4, 2)
    assert kept.composition == dropped.composition and kept.composition.all_wrong == 1


def test_no_weight_at_all_is_an_error_with_a_remedy() -> None:
    with pytest.raises(SpecError, match=r"'star': 1 all_wrong.*Choose another objective"):
        make_plan([make_trajectory(group_size=1, verdicts=[WRONG])], ReturnSpec(), TrainSpec(objective="star"))


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
    plan = make_plan(groups, ReturnSpec(), train.model_copy(update={"max_length": longest - 1}))
    assert plan.truncated >= 1 and plan.too_long == 0
    plan = make_plan(groups, ReturnSpec(), train.model_copy(update={"max_length": 8}))
    assert plan.too_long >= 1 and len(plan.examples) == 24, "what does not fit still counts in |B|"
