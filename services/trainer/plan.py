"""From a population to the batches of every step. Pure and deterministic: the same dataset and task give the same plan.

Trajectories of negligible weight are skipped but keep their place in the batches, so that |B| and the number of
steps are those of the full data.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from services.trainer.population import Example, Population, make_population, resample
from shared.returns import ReturnSpec
from shared.training import TrainSpec
from shared.trajectory import Trajectory

DEFAULT_STEPS = 200
"""Optimiser steps when the task names neither steps nor epochs (paper D.2)."""

BLOCK_BATCHES = 4
"""Batches in a block of a streamed first epoch; without blocks a batch would be a few whole groups."""


@dataclass
class Plan:
    """What a training consists of: the population in a fixed order, and the batches of every step.

    A streamed training's first epoch follows the order in which groups were recorded, shuffled within blocks of a few
    batches, so that a step needs no more than its block; any other epoch is shuffled as a whole. Either way a batch
    is a function of the whole population, however that has grown.
    """

    population: Population
    train: TrainSpec
    closed: bool = True
    """Whether the population is whole."""
    _orders: dict[str, list[int]] = field(default_factory=dict[str, list[int]], repr=False)

    @property
    def steps(self) -> int:
        """Optimiser steps; a streamed training knows them before its population is whole."""
        return count_steps(len(self.population.members), self.train)

    def has(self, step: int) -> bool:
        """Whether the data of a step (counted from 0) is there."""
        blocks = step // BLOCK_BATCHES + 1
        block = BLOCK_BATCHES * self.train.batch_size
        return self.closed or (self.train.streaming and blocks * block <= len(self.population.members))

    def batch(self, step: int) -> list[Example]:
        """The examples of one global batch (step counts from 0), coefficients divided by |B|.

        Epochs follow each other without a gap, each in its own seeded order, so that every batch counts
        exactly |B| trajectories; one that comes twice counts twice.
        """
        assert self.has(step), "the data of this step is not there yet"
        members, batch_size = self.population.members, self.train.batch_size
        drawn = Counter(self._at(place) for place in range(step * batch_size, (step + 1) * batch_size))
        resampled = self.train.weighting == "resampling"
        return [
            example.times(times / batch_size / (members[index].weight if resampled else 1.0))
            for index, times in drawn.items()
            for example in members[index].examples
        ]

    def held_out(self) -> list[Example]:
        """The examples of the held-out groups, coefficients divided by the number of their trajectories."""
        members = self.population.held_out
        return [example.times(1 / len(members)) for member in members for example in member.examples]

    def _at(self, place: int) -> int:
        """The member at a place of all epochs, one after the other."""
        size = len(self.population.members)
        epoch, place = divmod(place, size)
        if not self.train.streaming or epoch:
            return self._order(str(epoch), range(size))[place]
        length = BLOCK_BATCHES * self.train.batch_size
        block, place = divmod(place, length)
        return self._order(f"0:{block}", range(block * length, min((block + 1) * length, size)))[place]

    def _order(self, name: str, members: range) -> list[int]:
        """Members in a seeded order of its own for each name: each once, or as often as resampling draws it."""
        if name not in self._orders:
            rng = random.Random(f"{self.train.seed}:{name}")
            order = list(members)
            if self.train.weighting == "resampling":
                order = resample([self.population.members[index].weight for index in members], rng.random())
            rng.shuffle(order)
            self._orders = dict([*self._orders.items()][-1:]) | {name: order}  # a batch may span two
        return self._orders[name]


def make_plan(trajectories: Iterable[Trajectory], returns: ReturnSpec, train: TrainSpec) -> Plan:
    """Lay out a training; raises `SpecError` when no trajectory may carry weight."""
    return Plan(make_population(trajectories, returns, train), train)


def count_steps(population: int, train: TrainSpec) -> int:
    """The optimiser steps of a training; a pass over the population is rounded up to whole steps."""
    if train.epochs is not None:
        return math.ceil(Fraction(str(train.epochs)) * population / train.batch_size)
    return train.steps or DEFAULT_STEPS
