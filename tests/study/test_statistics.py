"""The study's statistics: right means, intervals that cover, differences that are paired."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cli.study.statistics import (
    Resampling,
    correction_rates,
    estimate_average,
    estimate_difference,
    estimate_multi_at,
    solved_by,
)

matrices = arrays.arrays(np.int16, (3, 20), elements=st.integers(0, 5))


@given(matrices)
def test_multi_at_k_grows_with_k_and_lies_in_its_interval(solved_at: np.ndarray) -> None:
    resampling = Resampling.draw(3, 20, resamples=200)
    estimates = [estimate_multi_at(solved_at, k, resampling) for k in range(1, 6)]
    assert all(a.mean <= b.mean for a, b in pairwise(estimates))
    assert all(0 <= one.low <= one.high <= 1 for one in estimates)
    assert estimates[-1].mean == np.count_nonzero(solved_at) / solved_at.size


def test_the_interval_of_a_mean_covers_it_about_nineteen_times_of_twenty() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        ability = generator.normal(0, 0.3, size=(3, 1)) + generator.normal(0, 1, size=(1, 150))
        solved_at = (generator.random((3, 150)) < 1 / (1 + np.exp(-ability))).astype(np.int16)
        one = estimate_multi_at(solved_at, 1, Resampling.draw(3, 150, resamples=300, seed=trial))
        hits += one.low <= 0.5 <= one.high
    assert hits / 200 >= 0.90  # three seeds, six points apart; docs/how-to/studies.md says what it is beyond


@given(matrices)
def test_a_method_does_not_differ_from_itself(solved_at: np.ndarray) -> None:
    same = estimate_difference(solved_at, solved_at, 5, Resampling.draw(3, 20, resamples=50))
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_pairing_sees_a_small_difference_that_unpaired_intervals_hide() -> None:
    generator = np.random.default_rng(2)
    worse = (generator.random((3, 200)) < 0.5).astype(np.int16)
    better = worse.copy()
    better[:, :12] = 1
    resampling = Resampling.draw(3, 200)
    difference = estimate_difference(better, worse, 1, resampling)
    assert difference.low > 0
    one, other = estimate_multi_at(better, 1, resampling), estimate_multi_at(worse, 1, resampling)
    assert one.low < other.high


def test_correction_rates_count_what_is_newly_right_among_what_was_wrong() -> None:
    assert correction_rates(np.array([[1, 2, 2, 0]], np.int16), 3) == [1 / 4, 2 / 3, 0.0]


def test_an_average_over_sets_draws_the_same_seeds_in_each_and_problems_of_its_own() -> None:
    by_seed = np.repeat([[0.0], [1.0], [1.0]], 30, axis=1)
    alone, twice = estimate_average([by_seed]), estimate_average([by_seed, by_seed])
    assert (alone.low, alone.high) == (twice.low, twice.high) == (0, 1)
    by_problem = np.tile([0.0, 1.0], (3, 15))
    mirrored = estimate_average([by_problem, 1 - by_problem])
    assert mirrored.mean == 0.5 and mirrored.low < 0.45 and mirrored.high > 0.55


@settings(max_examples=10)
@given(matrices)
def test_the_average_over_one_set_is_that_sets_own_estimate(solved_at: np.ndarray) -> None:
    assert estimate_average([solved_by(solved_at, 3)]) == estimate_multi_at(solved_at, 3, Resampling.draw(3, 20))
