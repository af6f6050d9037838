"""What a study measures, with intervals: multi@k of a method, and paired differences between two methods.

The data of one method on one dataset is a matrix [seeds, problems] of the turn that solved a problem, 0 where none
did. Intervals are percentiles over bootstrap samples of seeds and problems, drawn together, since both are samples:
another seed could have been trained, other problems could have been asked. Methods are compared on the same
problems and seeds, so that what makes a problem hard cancels out.
"""

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
        generator = np.random.default_rng(seed)
        drawn = (generator.multinomial(count, np.full(count, 1 / count), resamples) for count in (seeds, problems))
        return cls(*drawn)

    def means(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The mean of a matrix [seeds, problems] over each sample, shape [resamples]."""
        return ((self.seeds @ values) * self.problems).sum(axis=1) / values.size


def solved_by(solved_at: SolvedAt, k: int) -> npt.NDArray[np.float64]:
    """1 where a problem was solved within k turns, shape [seeds, problems]."""
    return ((solved_at >= 1) & (solved_at <= k)).astype(np.float64)


def estimate_multi_at(solved_at: SolvedAt, k: int, resampling: Resampling) -> Estimate:
    """multi@k of one method."""
    return _estimate(solved_by(solved_at, k), resampling)


def estimate_difference(one: SolvedAt, other: SolvedAt, k: int, resampling: Resampling) -> Estimate:
    """multi@k of `one` less that of `other`, paired by problem and seed.

    A method without seeds of its own (the base, decoded greedily) is one row and is paired with every seed.
    """
    rows = max(len(one), len(other))
    paired = solved_by(_repeat(one, rows), k) - solved_by(_repeat(other, rows), k)
    return _estimate(paired, resampling)


def correction_rates(solved_at: SolvedAt, max_turns: int) -> list[float]:
    """By turn: newly correct at t / wrong after t-1, over all seeds and problems; the first is multi@1."""
    rates: list[float] = []
    wrong = solved_at.size
    for turn in range(1, max_turns + 1):
        new = int((solved_at == turn).sum())
        rates.append(new / wrong if wrong else 0.0)
        wrong -= new
    return rates


def _repeat(solved_at: SolvedAt, rows: int) -> SolvedAt:
    return np.repeat(solved_at, rows, axis=0) if len(solved_at) == 1 else solved_at


def _estimate(values: npt.NDArray[np.float64], resampling: Resampling) -> Estimate:
    low, high = np.percentile(resampling.means(values), _LEVEL)
    return Estimate(mean=float(values.mean()), low=float(low), high=float(high))
