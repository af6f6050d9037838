"""What returns and weights depend on, as columns: of a part of a hundred thousand trajectories in a few milliseconds.

`shared.returns` defines the formulas for one trajectory; these are the same ones for all at once. Rows are in the order
of group and k; a weight is NaN where a trajectory has none.
"""

# pyarrow makes its functions at run time.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared.grading import Verdict
from shared.measures import Composition
from shared.outcomes import PartOutcomes
from shared.returns import ReturnSpec, count_answers
from shared.training import Objective
from shared.trajectory import ENDINGS, Trajectory

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_SOLVED, _UNGRADED, _FAILED = (ENDINGS.index(ending) for ending in ("solved", "ungraded", "failed"))
VERDICTS = tuple(Verdict)
"""Bit of `Outcomes.verdicts` -> verdict."""

_COLUMNS = [
    *("group", "k", "group_size", "ending"),
    *(f"turns.list.element.{name}" for name in ("verdict", "answer", "normal_form")),
]


@dataclass(frozen=True)
class Outcomes:
    """One row a trajectory; every array has shape [n]."""

    group: Integers
    k: npt.NDArray[np.int32]
    group_size: npt.NDArray[np.int32]
    ending: npt.NDArray[np.int8]
    """Place in `ENDINGS`."""
    turns: npt.NDArray[np.int16]
    """T."""
    answered: npt.NDArray[np.int16]
    """A: turns with a parsed answer."""
    distinct: npt.NDArray[np.int16]
    """U: distinct parsed answers."""
    verdicts: npt.NDArray[np.uint8]
    """The verdicts that any of its turns got, one bit each."""

    def __len__(self) -> int:
        return len(self.group)

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory]) -> Self:
        """Of trajectories in memory, in their order."""
        answers = [count_answers(one.turns) for one in trajectories]
        return cls(
            group=np.array([one.group for one in trajectories], np.int64),
            k=np.array([one.k for one in trajectories], np.int32),
            group_size=np.array([one.group_size for one in trajectories], np.int32),
            ending=np.array([ENDINGS.index(one.ending) for one in trajectories], np.int8),
            turns=np.array([len(one.turns) for one in trajectories], np.int16),
            answered=np.array([answered for answered, _ in answers], np.int16),
            distinct=np.array([distinct for _, distinct in answers], np.int16),
            verdicts=np.array([_bits(one) for one in trajectories], np.uint8),
        )

    @classmethod
    def from_columns(cls, columns: PartOutcomes) -> Self:
        """As `to_columns` gave them, but for the verdicts, which these do not have."""
        return cls(
            group=np.array(columns.group, np.int64),
            k=np.array(columns.k, np.int32),
            group_size=np.array(columns.group_size, np.int32),
            ending=np.array([ENDINGS.index(ending) for ending in columns.ending], np.int8),
            turns=np.array(columns.turns, np.int16),
            answered=np.array(columns.answered, np.int16),
            distinct=np.array(columns.distinct, np.int16),
            verdicts=np.zeros(len(columns.group), np.uint8),
        )

    def to_columns(self, job: str, part: str, policy: str) -> PartOutcomes:
        """For the wire."""
        return PartOutcomes(
            job=job,
            part=part,
            policy=policy,
            group=self.group.tolist(),
            k=self.k.tolist(),
            group_size=self.group_size.tolist(),
            ending=[ENDINGS[place] for place in self.ending],
            turns=self.turns.tolist(),
            answered=self.answered.tolist(),
            distinct=self.distinct.tolist(),
        )

    @classmethod
    def read(cls, shard: Path) -> Self:
        """Of a shard of the dataset, from the few columns that it takes."""
        with pq.ParquetFile(shard) as file:
            table = file.read(columns=_COLUMNS)
        listed: Any = table["turns"].combine_chunks()
        flat = listed.flatten()
        verdict, answer, normal = (flat.field(name) for name in ("verdict", "answer", "normal_form"))
        turns = listed.value_lengths().to_numpy(zero_copy_only=False)
        row = np.repeat(np.arange(len(turns)), turns)
        bit = pc.index_in(verdict, pa.array([str(one) for one in VERDICTS])).to_numpy(zero_copy_only=False)
        parsed = bit != VERDICTS.index(Verdict.UNPARSABLE)
        # As `count_answers` has it: the normal form, or where that is absent or empty the answer, which may be absent.
        answers = pc.if_else(pc.fill_null(pc.not_equal(normal, ""), False), normal, answer)
        codes = pc.dictionary_encode(answers, null_encoding="encode").indices.to_numpy(zero_copy_only=False)
        pairs = np.unique(np.stack([row[parsed], codes[parsed]]), axis=1)
        verdicts = np.zeros(len(turns), np.uint8)
        np.bitwise_or.at(verdicts, row, np.left_shift(1, bit).astype(np.uint8))
        ending = pc.index_in(table["ending"].combine_chunks(), pa.array(list(ENDINGS)))
        return cls(
            group=table["group"].to_numpy(),
            k=table["k"].to_numpy(),
            group_size=table["group_size"].to_numpy(),
            ending=ending.to_numpy(zero_copy_only=False).astype(np.int8),
            turns=turns.astype(np.int16),
            answered=np.bincount(row[parsed], minlength=len(turns)).astype(np.int16),
            distinct=np.bincount(pairs[0], minlength=len(turns)).astype(np.int16),
            verdicts=verdicts,
        )

    @classmethod
    def join(cls, parts: Sequence[Self]) -> tuple[Self, Integers]:
        """All rows by group and k, and the permutation that brought them into this order."""
        columns = [np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)]
        order = np.lexsort((columns[1], columns[0]))
        return cls(*(column[order] for column in columns)), order

    def only(self, rows: Flags) -> Self:
        """These rows."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def success(self) -> Flags:
        return self.ending == _SOLVED

    @property
    def usable(self) -> Flags:
        return (self.ending != _UNGRADED) & (self.ending != _FAILED)

    @cached_property
    def starts(self) -> Integers:
        """The first row of each group."""
        return np.flatnonzero(np.diff(self.group, prepend=-1))

    @cached_property
    def sizes(self) -> Integers:
        """The number of rows of each group."""
        return np.diff(self.starts, append=len(self))

    @cached_property
    def complete(self) -> Flags:
        """By group: whether every sibling is there."""
        return self.sizes == self.group_size[self.starts]

    @cached_property
    def weighable(self) -> Flags:
        """By group: whether every sibling is there and ran to an end that the method knows."""
        return self.complete & self._every(self.usable)

    @cached_property
    def solved(self) -> Integers:
        """By group: how many of its trajectories succeeded."""
        return np.add.reduceat(self.success.astype(np.int64), self.starts) if len(self) else np.zeros(0, np.int64)

    def compose(self) -> Composition:
        """Groups by outcome (paper D.9)."""
        sizes, solved, good = self.sizes, self.solved, self.weighable
        return Composition(
            complete=int(good.sum()),
            all_correct=int((good & (solved == sizes)).sum()),
            all_wrong=int((good & (solved == 0)).sum()),
            mixed=int((good & (solved > 0) & (solved < sizes)).sum()),
            spoiled=int((self.complete & ~good).sum()),
        )

    def score(self, spec: ReturnSpec) -> Floats:
        """R (paper eq. 12) of every trajectory."""
        success = np.where(self.success, spec.gamma ** (self.turns - 1.0), 0.0)
        share = np.divide(self.distinct, self.answered, out=np.ones(len(self)), where=self.answered > 0)
        return success - spec.repeat_penalty * (1 - share) - spec.format_penalty * (self.turns - self.answered)

    def weigh(self, spec: ReturnSpec, objective: Objective = "drift", *, drop_all_wrong: bool = False) -> Floats:
        """The weight of every trajectory under an objective (paper eqs. 10, 13); NaN outside of its population."""
        if not len(self):
            return np.zeros(0)
        belongs = self.weighable & ((self.solved > 0) | (not drop_all_wrong))
        match objective:
            case "drift" | "all_turns":
                returns = self.score(spec)
                top = self._spread(np.maximum.reduceat(returns, self.starts))
                tilts = np.exp((returns - top) / spec.beta)
                weights = tilts / self._spread(np.add.reduceat(tilts, self.starts) / self.sizes)
            case "uniform":
                weights = np.ones(len(self))
            case "star":
                weights = np.where(self.success & (self.turns == 2), 1.0, np.nan)
            case "single_turn":
                weights = np.where(self.success & (self.turns == 1), 1.0, np.nan)
        return np.where(self._spread(belongs), weights, np.nan)

    def effective_sizes(self, weights: Floats) -> Floats:
        """(sum w)^2 / sum w^2 of each group that has weights."""
        if not len(self):
            return np.zeros(0)
        known = np.nan_to_num(weights)
        total, squares = (np.add.reduceat(values, self.starts) for values in (known, known**2))
        return total[squares > 0] ** 2 / squares[squares > 0]

    def find_skipped(self, weights: Floats, epsilon: float) -> Flags:
        """The lightest of each group whose weights together are less than `epsilon` of the group's."""
        if not len(self):
            return np.zeros(0, np.bool_)
        known = np.nan_to_num(weights)
        order = np.lexsort((known, self.group))
        summed = np.cumsum(known[order])
        before = self._spread(summed[self.starts] - known[order][self.starts])
        total = self._spread(np.add.reduceat(known, self.starts))
        skipped = np.zeros(len(self), np.bool_)
        skipped[order] = summed - before < epsilon * total
        return skipped & ~np.isnan(weights)

    def _spread(self, by_group: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.repeat(by_group, self.sizes)

    def _every(self, flags: Flags) -> Flags:
        return np.logical_and.reduceat(flags, self.starts) if len(self) else np.zeros(0, np.bool_)


def _bits(trajectory: Trajectory) -> int:
    bits = 0
    for turn in trajectory.turns:
        bits |= 1 << VERDICTS.index(turn.verdict)
    return bits
