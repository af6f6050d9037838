"""From a population to equal-cost micro-batches. Pure and deterministic: the same dataset and task give the same plan.

Trajectories of negligible weight are skipped but keep their place in the batches, so that |B| and the number of
steps are those of the full data. A batch is then split among ranks and micro-batches: every rank gets the same
number of micro-batches and about the same number of tokens, and no split changes the loss.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from services.trainer.population import Example, Population, make_population, resample
from shared.job import TrainSpec
from shared.returns import ReturnSpec
from shared.trajectory import Trajectory

DEFAULT_STEPS = 200
"""Optimiser steps when the task names neither steps nor epochs (paper D.2)."""

BLOCK_BATCHES = 4
"""Batches in a block of a streamed first epoch; without blocks a batch would be a few whole groups."""

_PASS_COST = 64
"""Fixed cost of one forward and backward pass, in tokens of computation; measured on a CPU, not critical."""

MicroBatch = list[Example]
"""Sequences of one forward pass; empty where a rank has nothing to do while others have."""


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
        return math.ceil(train.epochs * population / train.batch_size)
    return train.steps or DEFAULT_STEPS


def split_batch(batch: Sequence[Example], ranks: int, micro_batch_tokens: int) -> list[list[MicroBatch]]:
    """Micro-batches for each rank, shape [ranks][n]: the same n, at least 1, for all, and balanced tokens.

    A micro-batch holds at most `micro_batch_tokens` with its padding, or one longer sequence alone.
    """
    shares: list[list[Example]] = [[] for _ in range(ranks)]
    for example in sorted(batch, key=lambda example: -len(example.tokens)):
        min(shares, key=lambda share: sum(len(one.tokens) for one in share)).append(example)
    split = [_fill(share, micro_batch_tokens) for share in shares]
    count = max(1, *map(len, split))
    for micro_batches in split:
        while len(micro_batches) < count:
            largest = max(range(len(micro_batches)), key=lambda place: len(micro_batches[place]), default=None)
            if largest is None or len(micro_batches[largest]) < 2:
                micro_batches.append([])
            else:
                whole = micro_batches[largest]
                half = len(whole) // 2
                micro_batches[largest : largest + 1] = [whole[:half], whole[half:]]
    return split


def _fill(examples: Sequence[Example], micro_batch_tokens: int) -> list[MicroBatch]:
    """Cut the examples, longest first, where padding and the fixed cost of a pass are least together.

    The first sequence of a micro-batch sets the padded length of its rows.
    """
    cheapest = [0.0]
    begins = [0]
    for stop in range(1, len(examples) + 1):
        costs: list[tuple[float, int]] = []
        for begin in range(stop - 1, -1, -1):
            padded = len(examples[begin].tokens) * (stop - begin)
            if padded > micro_batch_tokens and begin < stop - 1:
                break
            costs.append((cheapest[begin] + padded + _PASS_COST, begin))
        cost, begin = min(costs)
        cheapest.append(cost)
        begins.append(begin)
    filled: list[MicroBatch] = []
    stop = len(examples)
    while stop:
        filled.append(list(examples[begins[stop] : stop]))
        stop = begins[stop]
    return filled[::-1]
