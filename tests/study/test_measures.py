"""Measures over policies: all on the same problems, differences on the same seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.study.measures import Policy, average, compare
from services.rollout.outcomes import Outcomes
from shared.outcomes import PartOutcomes
from shared.trajectory import Ending

TURNS = 5


def policy(method: str, seed: int | None, solved_at: list[int | None]) -> Policy:
    """By problem the turn that solved it, 0 where none did, None where it could not be graded."""
    endings: list[Ending] = ["ungraded" if at is None else "solved" if at else "max_turns" for at in solved_at]
    n = len(solved_at)
    turns = [at or TURNS for at in solved_at]
    columns = PartOutcomes(
        job="job", part="evaluate-0-0", policy="base", group=list(range(n)), k=[0] * n, group_size=[1] * n,
        ending=endings, turns=turns, answered=turns, distinct=[1] * n,
    )  # fmt: skip
    return Policy(method, seed, Outcomes.from_columns(columns))


rows = st.lists(st.integers(0, TURNS), min_size=4, max_size=4)


@given(rows, st.lists(rows, min_size=2, max_size=2))
def test_measures_are_means_over_problems_and_seeds_and_differences_are_differences_of_means(
    base: list[int | None], drift: list[list[int | None]]
) -> None:
    policies = [policy("base", None, base), *(policy("drift", seed, row) for seed, row in enumerate(drift))]
    results = compare(policies, TURNS)
    for k in range(1, TURNS + 1):
        wanted = [np.mean([1 <= (at or 0) <= k for row in matrix for at in row]) for matrix in ([base], drift)]
        got = [results.methods[name].multi_at[k - 1] for name in ("base", "drift")]
        assert got == pytest.approx(wanted)
        (difference,) = results.differences
        assert difference.multi_at[k - 1].mean == pytest.approx(wanted[1] - wanted[0])
    one = results.methods["drift"]
    assert one.seeds == [0, 1]
    assert np.mean(one.multi_at_by_seed, axis=0) == pytest.approx(one.multi_at)
    assert one.correction_rate_at[0] == pytest.approx(one.multi_at[0])


def test_a_problem_that_one_policy_could_not_be_graded_on_counts_for_none() -> None:
    results = compare([policy("base", None, [1, None, 0]), policy("drift", 1, [1, 1, 0])], TURNS)
    assert (results.problems, results.left_out) == (2, 1)
    assert results.methods["drift"].multi_at == results.methods["base"].multi_at == [0.5] * TURNS


def test_methods_are_compared_on_the_seeds_that_both_have() -> None:
    policies = [
        policy("sft_5turn", 1, [0, 0]),
        policy("sft_5turn", 3, [1, 1]),
        policy("drift", 1, [1, 1]),
        policy("drift", 2, [0, 0]),
    ]
    (difference,) = compare(policies, TURNS).differences
    assert difference.multi_at[0].mean == 1
    assert (difference.seeds, difference.multi_at_by_seed) == ([1], [[1] * TURNS])
    assert compare(policies[1:3], TURNS).differences == []


def test_each_method_is_compared_with_base_sft_5turn_and_drift_and_each_pair_once() -> None:
    methods = ("drift", "base", "drift_refresh", "sft_5turn")
    made = [policy(name, None if name == "base" else 1, [place, 0]) for place, name in enumerate(methods)]
    pairs = [(one.method, one.other) for one in compare(made, TURNS).differences]
    assert sorted(pairs) == [
        ("drift", "base"), ("drift", "sft_5turn"), ("drift_refresh", "base"), ("drift_refresh", "drift"),
        ("drift_refresh", "sft_5turn"), ("sft_5turn", "base"),
    ]  # fmt: skip


@settings(max_examples=10)
@given(st.lists(rows, min_size=4, max_size=4), st.lists(rows, min_size=4, max_size=4))
def test_the_average_is_the_mean_of_the_sets_and_its_difference_is_paired(
    here: list[list[int | None]], there: list[list[int | None]]
) -> None:
    datasets = [
        [
            policy("base", None, solved[0]),
            policy("sft_5turn", 1, solved[0]),
            policy("sft_5turn", 2, solved[1]),
            policy("drift", 1, solved[2]),
            policy("drift", 2, solved[3]),
            policy("drift_refresh", 3, solved[3]),
        ]
        for solved in (here, there)
    ]
    told = average(datasets, TURNS)
    results = [compare(policies, TURNS) for policies in datasets]
    for method, mean in told.methods.items():
        assert mean.mean == pytest.approx(np.mean([one.methods[method].multi_at[-1] for one in results]))
    # The refresh has no seed in common with SFT-5turn.
    assert set(told.minus_sft_5turn) == {"drift"}
    difference = told.minus_sft_5turn["drift"]
    assert difference.mean == pytest.approx(told.methods["drift"].mean - told.methods["sft_5turn"].mean)
    assert difference.low - 1e-9 <= difference.mean <= difference.high + 1e-9


def test_distinct_answers_of_the_unsolved_are_told_apart() -> None:
    measured = compare([policy("base", None, [1, 0, 0])], TURNS).methods["base"]
    assert measured.distinct_answers == measured.distinct_answers_wrong == 1
    assert measured.unique_answers == pytest.approx((1 + 1 / 5 + 1 / 5) / 3)
    assert compare([policy("base", None, [1, 1])], TURNS).methods["base"].distinct_answers_wrong == 0
