"""The study's statistics: right means, intervals that cover, differences that are paired."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cli.study.statistics import (
    Resampling,
    correction_rates,
    estimate_difference,
    estimate_multi_at,
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
    assert 0.80 <= hits / 200 <= 1.0  # three seeds give somewhat narrow intervals, which the docs say


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


def test_the_base_without_seeds_is_paired_with_every_seed() -> None:
    base = np.array([[0, 1, 1, 0]], np.int16)
    method = np.array([[1, 1, 1, 0], [0, 1, 1, 1]], np.int16)
    assert estimate_difference(method, base, 1, Resampling.draw(2, 4)).mean == 0.25


def test_correction_rates_count_what_is_newly_right_among_what_was_wrong() -> None:
    assert correction_rates(np.array([[1, 2, 2, 0]], np.int16), 3) == [1 / 4, 2 / 3, 0.0]
