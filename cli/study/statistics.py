"""What a study measures, with intervals: multi@k of a method, and paired differences between two methods.

The data of one method on one dataset is a matrix [seeds, problems] of the turn that solved a problem, 0 where none
did. Intervals are percentiles over bootstrap samples of seeds and problems, drawn together, since both are samples:
another seed could have been trained, other problems could have been asked. Methods are compared on the same
problems and seeds, so that what makes a problem hard cancels out. An interval of one seed says nothing of other seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.schema import Schema

SolvedAt = npt.NDArray[np.int16]
"""Shape [seeds, problems]."""
RESAMPLES = 2000
_LEVEL = (2.5, 97.5)


class Estimate(Schema):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampling:
    """Bootstrap samples of seeds and problems, the same for all methods that are compared."""

    seeds: npt.NDArray[np.int64]
    """How often each sample has each seed, shape [resamples, seeds]."""
    problems: npt.NDArray[np.int64]
    """The same of problems, shape [resamples, problems]."""

    @classmethod
    def draw(cls, seeds: int, problems: int, resamples: int = RESAMPLES, seed: int = 0) -> "Resampling":
        """Deterministic in its arguments."""
        return cls.draw_sets(seeds, [problems], resamples, seed)[0]

    @classmethod
    def draw_sets(
        cls, seeds: int, problems: Sequence[int], resamples: int = RESAMPLES, seed: int = 0
    ) -> list["Resampling"]:
        """One a set of problems: the same seeds, since a policy is evaluated on all sets, and problems of its own."""
        generator = np.random.default_rng(seed)
        drawn, *by_set = (
            generator.multinomial(count, np.full(count, 1 / count), resamples) for count in (seeds, *problems)
        )
        return [cls(drawn, of_set) for of_set in by_set]

    def means(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The mean of a matrix [seeds, problems] over each sample, shape [resamples]."""
        return ((self.seeds @ values) * self.problems).sum(axis=1) / values.size


def solved_by(solved_at: SolvedAt, k: int) -> npt.NDArray[np.float64]:
    """1 where a problem was solved within k turns, shape [seeds, problems]."""
    return ((solved_at >= 1) & (solved_at <= k)).astype(np.float64)


def estimate_multi_at(solved_at: SolvedAt, k: int, resampling: Resampling) -> Estimate:
    """multi@k of one method."""
    return _estimate([solved_by(solved_at, k)], [resampling])


def estimate_difference(one: SolvedAt, other: SolvedAt, k: int, resampling: Resampling) -> Estimate:
    """multi@k of `one` less that of `other`; row by row the same seed, column by column the same problem."""
    return _estimate([solved_by(one, k) - solved_by(other, k)], [resampling])


def estimate_average(sets: Sequence[npt.NDArray[np.float64]]) -> Estimate:
    """The mean over sets of problems of each set's mean; all matrices [seeds, problems] have the same seeds."""
    return _estimate(sets, Resampling.draw_sets(len(sets[0]), [values.shape[1] for values in sets]))


def correction_rates(solved_at: SolvedAt, max_turns: int) -> list[float]:
    """By turn: newly correct at t / wrong after t-1, over all seeds and problems; the first is multi@1."""
    rates: list[float] = []
    wrong = solved_at.size
    for turn in range(1, max_turns + 1):
        new = int((solved_at == turn).sum())
        rates.append(new / wrong if wrong else 0.0)
        wrong -= new
    return rates


def _estimate(sets: Sequence[npt.NDArray[np.float64]], resamplings: Sequence[Resampling]) -> Estimate:
    means = np.mean([one.means(values) for one, values in zip(resamplings, sets, strict=True)], axis=0)
    low, high = np.percentile(means, _LEVEL)
    return Estimate(mean=float(np.mean([values.mean() for values in sets])), low=float(low), high=float(high))
