"""Promises of the plan: steps and batches."""

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.plan import Plan, count_steps, make_plan
from services.trainer.population import Example, Population
from shared.returns import ReturnSpec, score_trajectory, weigh
from shared.training import TrainSpec
from tests.trainer.tiny import END, make_groups, make_trajectory


def test_skipping_leaves_population_steps_and_the_other_coefficients_unchanged() -> None:
    groups = make_groups(groups=20)
    every = make_plan(groups, ReturnSpec(), TrainSpec(epochs=2, batch_size=8, epsilon=0))
    some = make_plan(groups, ReturnSpec(), TrainSpec(epochs=2, batch_size=8, epsilon=1e-2))
    assert every.population.skipped == 0 and every.population.skipped_mass == 0
    assert some.population.skipped > 0 and 0 < some.population.skipped_mass < 1e-2
    assert 0 < some.population.skipped_token_share < 1
    assert len(some.population.members) == len(every.population.members) == 80 and some.steps == every.steps == 20
    for step in range(some.steps):
        kept = {(one.trajectory, one.coefficient) for one in some.batch(step)}
        assert kept <= {(one.trajectory, one.coefficient) for one in every.batch(step)}


@given(st.integers(1, 6), st.integers(1, 20), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_a_streamed_batch_is_the_same_as_soon_as_it_is_there(batch_size: int, steps: int, rng: random.Random) -> None:
    """However the data comes in, a step trains what it would with all of it, and the first epoch is one."""
    groups = [make_groups(groups=14)[place : place + 4] for place in range(0, 56, 4)]
    rng.shuffle(groups)
    train = TrainSpec(steps=steps, batch_size=batch_size, epsilon=0, streaming=True)
    whole = make_plan([one for group in groups for one in group], ReturnSpec(), train)
    growing = Plan(Population(ReturnSpec(), train), train, closed=False)
    early: dict[int, list[Example]] = {}
    for group in groups:
        growing.population.add(group)
        early |= {step: growing.batch(step) for step in range(steps) if step not in early and growing.has(step)}
    assert len(early) == min(steps, 56 // (4 * batch_size) * 4), "a step waits for its block of four batches"
    assert all(whole.batch(step) == batch for step, batch in early.items())
    first_epoch = [one.trajectory for step in range(56 // batch_size) for one in whole.batch(step)]
    assert len(set(first_epoch)) == len(first_epoch)


def test_what_is_not_streamed_does_not_depend_on_the_order_of_recording() -> None:
    groups = make_groups(groups=4)
    train = TrainSpec(steps=4, batch_size=8)
    one, other = (make_plan(rows, ReturnSpec(), train) for rows in (groups, [*groups[8:], *groups[:8]]))
    assert [one.batch(step) for step in range(4)] == [other.batch(step) for step in range(4)]


@pytest.mark.parametrize("other", [{"epochs": 1}, {"held_out": 0.1}, {"weighting": "resampling"}])
def test_what_cannot_be_streamed_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="`streaming`"):
        TrainSpec(streaming=True, **other)


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
    assert count_steps(12_800, TrainSpec(epochs=1.1, batch_size=128)) == 110, "1.1 is no binary fraction"
    assert count_steps(1000, TrainSpec()) == 200
