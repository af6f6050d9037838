"""Reads a job's trajectories for the API: from the dataset's shards, and from the stream what is not there yet.

The order is by part, group and k, so that a cursor means the same before and after the trainer has moved
an entry from the stream to a shard. A weight is given once the group is complete.
"""

import asyncio
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field
from redis.asyncio import Redis

from shared import keys, shards
from shared.errors import SpecError
from shared.returns import ReturnSpec, score_trajectory, weigh
from shared.schema import Schema
from shared.trajectory import Ending, Problem, Trajectory, Turn

_CURSOR = re.compile(r"(rollout-\d{1,6}|evaluate-\d{1,6}-\d{1,6}):(\d{1,12}):(\d{1,6})")
_SCAN = 500

Position = tuple[str, int, int]
"""(part, group, k)."""


class ReturnParts(Schema):
    """R(tau) (paper eq. 12) and its terms: value = discounted_success - repeat - format."""

    value: float
    discounted_success: float
    repeat: float
    format: float


class TrajectoryRecord(Schema):
    """One trajectory as the API gives it."""

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
    return_: Annotated[float, Field(serialization_alias="return")]
    return_terms: ReturnParts
    weight: float | None
    """Importance weight among its siblings (paper eq. 13); absent until the group is complete, or if it is spoiled."""


class TrajectoryPage(Schema):
    """A page, and the cursor that asks for the next; no cursor where nothing follows yet."""

    trajectories: list[TrajectoryRecord]
    next: str | None


class Records:
    """The trajectories of all jobs."""

    def __init__(self, redis: Redis, runs_root: Path) -> None:
        self._redis = redis
        self._runs_root = runs_root

    async def page(self, job: str, spec: ReturnSpec, after: str | None, limit: int, part: str | None) -> TrajectoryPage:
        """At most `limit` trajectories beyond the cursor, which is the position `part:group:k` of the last one seen."""
        start = _parse_cursor(after)
        waiting = await self._read_stream(job, start, part)
        walk = self._walk(job, spec, start, part, waiting)
        found = await asyncio.to_thread(lambda: list(itertools.islice(walk, limit + 1)))
        shown = found[:limit]
        last = shown[-1] if len(found) > limit else None
        return TrajectoryPage(trajectories=shown, next=f"{last.part}:{last.group}:{last.k}" if last else None)

    def _walk(
        self, job: str, spec: ReturnSpec, start: Position, part: str | None, waiting: list[Trajectory]
    ) -> Iterator[TrajectoryRecord]:
        """Everything beyond the cursor in order; reads a shard only when its turn has come."""
        groups: dict[tuple[str, int], list[Trajectory] | Path] = defaultdict(list)
        for trajectory in waiting:
            siblings = groups[trajectory.part, trajectory.group]
            assert isinstance(siblings, list)
            siblings.append(trajectory)
        root = self._runs_root / job / "dataset"
        for name in [part] if part else [folder.name for folder in root.glob("*")]:
            for path in shards.list_shards(root / name):
                groups |= {(name, group): path for group in shards.groups_of(path) if (name, group) >= start[:2]}
        read: dict[Path, dict[int, list[Trajectory]]] = {}
        for (_, group), held in sorted(groups.items(), key=lambda item: item[0]):
            if isinstance(held, list):
                siblings = held
            else:
                if held not in read:
                    read[held] = _by_group(shards.read_shard(held))
                siblings = read[held][group]
            described = _describe(siblings, spec)
            yield from (each for each in described if (each.part, each.group, each.k) > start)

    async def _read_stream(self, job: str, start: Position, part: str | None) -> list[Trajectory]:
        """What the trainer has not moved to the dataset yet; bounded by the high-water mark."""
        found: list[Trajectory] = []
        last = "-"
        while entries := await self._redis.xrange(keys.trajectories(job), min=last, count=_SCAN):
            for last_id, fields in entries:
                last = f"({last_id}"
                trajectory = Trajectory.model_validate_json((fields or {})["trajectory"])
                if (trajectory.part, trajectory.group) >= start[:2] and part in (None, trajectory.part):
                    found.append(trajectory)
        return found


def _by_group(trajectories: Iterable[Trajectory]) -> dict[int, list[Trajectory]]:
    groups: dict[int, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        groups[trajectory.group].append(trajectory)
    return groups


def _describe(siblings: list[Trajectory], spec: ReturnSpec) -> list[TrajectoryRecord]:
    siblings = sorted(siblings, key=lambda trajectory: trajectory.k)
    returns = [score_trajectory(trajectory, spec) for trajectory in siblings]
    weights: list[float | None] = [None] * len(siblings)
    complete = len(siblings) == siblings[0].group_size and all(trajectory.usable for trajectory in siblings)
    if complete and siblings[0].phase == "rollout":
        weights = list(weigh([each.value for each in returns], spec.beta))
    return [
        TrajectoryRecord(
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
            return_=each.value,
            return_terms=ReturnParts(
                value=each.value,
                discounted_success=each.discounted_success,
                repeat=each.repeat,
                format=each.format,
            ),
            weight=weight,
        )
        for trajectory, each, weight in zip(siblings, returns, weights, strict=True)
    ]


def _parse_cursor(after: str | None) -> Position:
    if not after:
        return ("", -1, -1)
    match = _CURSOR.fullmatch(after)
    if match is None:
        raise SpecError(f"after={after[:64]!r} is not a cursor.", remedy="Pass the last page's `next`.")
    return (match[1], int(match[2]), int(match[3]))
