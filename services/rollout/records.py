"""Finds a job's trajectories for the API, by what they did, and gives them page by page.

The order is by part, group and k, so that a cursor means the same before and after a trajectory has moved from the
stream to a shard. A weight is given once the group is complete.
"""

# pyarrow makes its functions at run time.
# pyright: reportAttributeAccessIssue=false

import asyncio
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field

from services.rollout.archive import STREAM, Archive, Recorded
from services.rollout.outcomes import VERDICTS, Flags, Floats
from shared.errors import SpecError
from shared.grading import Verdict
from shared.returns import ReturnSpec, score_trajectory
from shared.schema import Schema
from shared.trajectory import ENDINGS, Ending, Problem, Trajectory, Turn

_CURSOR = re.compile(r"(rollout-\d{1,6}|evaluate-\d{1,6}-\d{1,6}):(\d{1,12}):(\d{1,6})")
_MOST_SHARDS_SEARCHED = 32
"""Shards that one request searches for a text; its page may then be short, and `next` goes on."""
_MOST_ENTRIES_SEARCHED = 1000
"""The same for entries of the stream."""
_MOST_IDS = 1 << 22
"""Token ids of one page, some fifty bytes each; `next` goes on."""
_FETCHED = 64
"""Trajectories that are fetched together, before their ids can be counted."""

Position = tuple[str, int, int]
"""(part, group, k)."""


class Filter(Schema):
    """What trajectories to show; every condition that is given must hold."""

    part: Annotated[str, Field(pattern=r"^(rollout-\d{1,6}|evaluate-\d{1,6}-\d{1,6})$")] | None = None
    """`rollout-STAGE` or `evaluate-STAGE-DATASET`."""
    policy: Annotated[str, Field(max_length=128)] | None = None
    """`base` or `stage-N`."""
    group: Annotated[int, Field(ge=0)] | None = None
    """One problem's trajectories."""
    ending: Ending | None = None
    verdict: Verdict | None = None
    """Any of its turns got this verdict."""
    min_turns: Annotated[int, Field(ge=0)] | None = None
    max_turns: Annotated[int, Field(ge=0)] | None = None
    min_weight: Annotated[float, Field(ge=0)] | None = None
    max_weight: Annotated[float, Field(ge=0)] | None = None
    text: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Its problem or one of its answers contains this, whatever the case."""

    def matches(self, recorded: Recorded, weights: Floats) -> Flags:
        """By trajectory: whether all conditions but the text hold."""
        outcomes = recorded.outcomes
        held = np.full(len(outcomes), self.policy in (None, recorded.policy))
        if self.group is not None:
            held &= outcomes.group == self.group
        if self.ending is not None:
            held &= outcomes.ending == ENDINGS.index(self.ending)
        if self.verdict is not None:
            held &= (outcomes.verdicts >> VERDICTS.index(self.verdict)) & 1 == 1
        if self.min_turns is not None:
            held &= outcomes.turns >= self.min_turns
        if self.max_turns is not None:
            held &= outcomes.turns <= self.max_turns
        if self.min_weight is not None:
            held &= weights >= self.min_weight
        if self.max_weight is not None:
            held &= weights <= self.max_weight
        return held


class ReturnParts(Schema):
    """R(tau) (paper eq. 12) and its terms: value = discounted_success - repeat - format."""

    value: float
    discounted_success: float
    repeat: float
    format: float


class TrajectoryRecord(Schema):
    """One trajectory as the API gives it."""

    model_config = ConfigDict(validate_by_name=True)

    id: str
    part: str
    """`rollout-STAGE` or `evaluate-STAGE-DATASET`."""
    policy: str
    group: int
    k: int
    problem: Problem
    turns: list[Turn]
    ending: Ending
    reason: str | None
    success: bool
    return_: Annotated[float, Field(validation_alias="return", serialization_alias="return")]
    return_terms: ReturnParts
    weight: float | None
    """Importance weight among its siblings (paper eq. 13); absent until the group is complete, or if it is spoiled."""


class TrajectoryPage(Schema):
    """A page, and the cursor that asks for the next; no cursor where nothing follows yet."""

    trajectories: list[TrajectoryRecord]
    next: str | None


class Records:
    """The trajectories of all jobs."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def page(
        self, job: str, spec: ReturnSpec, after: str | None, limit: int, wanted: Filter | None = None
    ) -> TrajectoryPage:
        """At most `limit` trajectories beyond the cursor, the position `part:group:k` of the last one looked at.

        A page may hold fewer and still have a `next`: one holds no more than some million token ids, and a search for a
        text, whose page may even be empty, looks through a limited number of shards. Raises `SpecError` for what is no
        cursor.
        """
        wanted = wanted or Filter()
        start = _parse_cursor(after)
        picked: list[tuple[Recorded, int, float]] = []
        following: str | None = None
        for recorded in await self._archive.read(job, wanted.part):
            if recorded.part < start[0]:
                continue
            weights = weigh_part(recorded, spec)
            held = wanted.matches(recorded, weights)
            if recorded.part == start[0]:
                outcomes = recorded.outcomes
                held &= (outcomes.group > start[1]) | ((outcomes.group == start[1]) & (outcomes.k > start[2]))
            rows = [int(row) for row in np.flatnonzero(held)]
            if wanted.text is not None:
                rows, stopped = await self._search(job, recorded, rows, wanted.text, limit + 1 - len(picked))
                following = None if stopped is None else _write_cursor(recorded, stopped)
            picked += [(recorded, row, weights[row]) for row in rows[: limit + 1 - len(picked)]]
            if len(picked) > limit:
                following = _write_cursor(*picked[limit - 1][:2])
            if following:
                break
        described, stopped = await self._describe(job, spec, picked[:limit])
        return TrajectoryPage(trajectories=described, next=stopped or following)

    async def _describe(
        self, job: str, spec: ReturnSpec, picked: Sequence[tuple[Recorded, int, float]]
    ) -> tuple[list[TrajectoryRecord], str | None]:
        """As many of the first as a page holds, and the last one's cursor where that is not all."""
        described: list[TrajectoryRecord] = []
        ids = 0
        for begin in range(0, len(picked), _FETCHED):
            for _, members in itertools.groupby(picked[begin : begin + _FETCHED], lambda one: one[0].part):
                part = list(members)
                found = await self._archive.fetch(job, part[0][0], [row for _, row, _ in part])
                for _, row, weight in part:
                    if row not in found:
                        continue
                    ids += sum(len(turn.prompt_token_ids) + len(turn.token_ids) for turn in found[row].turns)
                    if described and ids > _MOST_IDS:
                        end = described[-1]
                        return described, f"{end.part}:{end.group}:{end.k}"
                    described.append(describe(found[row], spec, weight))
        return described, None

    async def _search(
        self, job: str, recorded: Recorded, rows: Sequence[int], text: str, enough: int
    ) -> tuple[list[int], int | None]:
        """The first rows that contain the text, and the last row looked at where the search stops before the end."""
        found: list[int] = []
        searched: dict[int, Flags] = {}
        asked = 0
        last: int | None = None
        for row in rows:
            source = int(recorded.source[row])
            if source != STREAM and source not in searched:
                if len(searched) == _MOST_SHARDS_SEARCHED:
                    return found, last
                searched[source] = await asyncio.to_thread(_find_text, recorded.shards[source], text)
            if source == STREAM:
                if asked == _MOST_ENTRIES_SEARCHED:
                    return found, last
                asked += 1
                one = await self._archive.fetch(job, recorded, [row])
                matches = row in one and _contains(one[row], text)
            else:
                matches = bool(searched[source][recorded.place[row]])
            last = row
            if matches:
                found.append(row)
                if len(found) == enough:
                    break
        return found, None


def weigh_part(recorded: Recorded, spec: ReturnSpec) -> Floats:
    """The weight of each trajectory of a rollout, NaN where there is none; evaluations have no weights."""
    if recorded.part.startswith("rollout-"):
        return recorded.outcomes.weigh(spec)
    return np.full(len(recorded.outcomes), np.nan)


def describe(trajectory: Trajectory, spec: ReturnSpec, weight: float) -> TrajectoryRecord:
    """One trajectory with its return; NaN says that it has no weight."""
    parts = score_trajectory(trajectory, spec)
    return TrajectoryRecord(
        id=trajectory.id,
        part=trajectory.part,
        policy=trajectory.policy,
        group=trajectory.group,
        k=trajectory.k,
        problem=trajectory.problem,
        turns=trajectory.turns,
        ending=trajectory.ending,
        reason=trajectory.reason,
        success=trajectory.success,
        return_=parts.value,
        return_terms=ReturnParts(
            value=parts.value,
            discounted_success=parts.discounted_success,
            repeat=parts.repeat,
            format=parts.format,
        ),
        weight=None if math.isnan(weight) else float(weight),
    )


def _find_text(shard: Path, text: str) -> Flags:
    """By row of the shard: whether the problem or an answer contains the text."""
    with pq.ParquetFile(shard) as file:
        table = file.read(columns=["problem.problem", "turns.list.element.text"])
    problems = table["problem"].combine_chunks().field("problem")
    turns = table["turns"].combine_chunks()
    held = pc.match_substring(problems, text, ignore_case=True).to_numpy(zero_copy_only=False).astype(np.bool_)
    row = np.repeat(np.arange(len(turns)), turns.value_lengths().to_numpy(zero_copy_only=False))
    said = pc.match_substring(turns.flatten().field("text"), text, ignore_case=True).to_numpy(zero_copy_only=False)
    held[row[said.astype(np.bool_)]] = True
    return held


def _contains(trajectory: Trajectory, text: str) -> bool:
    texts = (trajectory.problem.problem, *(turn.text for turn in trajectory.turns))
    return any(text.casefold() in one.casefold() for one in texts)


def _write_cursor(recorded: Recorded, row: int) -> str:
    return f"{recorded.part}:{recorded.outcomes.group[row]}:{recorded.outcomes.k[row]}"


def _parse_cursor(after: str | None) -> Position:
    if not after:
        return ("", -1, -1)
    match = _CURSOR.fullmatch(after)
    if match is None:
        raise SpecError(f"after={after[:64]!r} is not a cursor.", remedy="Pass the last page's `next`.")
    return (match[1], int(match[2]), int(match[3]))
