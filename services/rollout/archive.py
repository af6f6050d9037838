"""What a job has recorded: the dataset's shards, and from the stream what is not there yet, as one.

Nothing is shown twice or missed while a recorder moves groups from the stream to shards, since the stream is looked
at first and a group that a shard holds counts as the shard's. Shards and entries never change, so that their columns
are kept; whole trajectories are read only where they are shown.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from redis.asyncio import Redis

from services.rollout.outcomes import Integers, Outcomes
from shared import keys, shards
from shared.measures import Composition
from shared.stream import TrajectoryStream
from shared.trajectory import Trajectory

_SCAN = 64
_MOST_ROWS = 1_000_000
"""Rows of shards whose columns are kept in memory, some thirty bytes each."""
_MOST_JOBS = 16
"""Jobs whose waiting entries, and parts whose columns, are kept joined."""
STREAM = -1
"""In `Recorded.source`: the row waits in the stream."""


@dataclass(frozen=True)
class Recorded:
    """One part of a job, a row a trajectory, by group and k."""

    part: str
    policy: str
    outcomes: Outcomes
    source: Integers
    """Place in `shards`, or `STREAM`."""
    place: Integers
    """Row within the shard, or place in `entries`."""
    shards: Sequence[Path]
    entries: Sequence[str]
    """Ids of waiting entries in the stream."""

    def id(self, job: str, row: int) -> str:
        """Of a trajectory."""
        return f"{job}:{self.part}:{self.outcomes.group[row]}:{self.outcomes.k[row]}"


@dataclass
class _Waiting:
    """The entries of one job's stream, as far as they have been seen."""

    last: str = "-"
    entries: dict[str, tuple[str, str, Outcomes]] = field(default_factory=dict[str, tuple[str, str, Outcomes]])
    """Entry -> (part, policy, its one row)."""


class Archive:
    """The recorded trajectories of all jobs."""

    def __init__(self, redis: Redis, runs_root: Path) -> None:
        self._redis = redis
        self._runs_root = runs_root
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._columns: OrderedDict[Path, Outcomes] = OrderedDict()
        self._rows = 0
        self._joined: OrderedDict[Path, Recorded] = OrderedDict()
        """Parts without waiting entries."""
        self._one_at_a_time = asyncio.Lock()

    async def read(self, job: str, part: str | None = None) -> list[Recorded]:
        """The parts of a job by name, or the one that is named, as far as they are recorded."""
        async with self._one_at_a_time:
            waiting = await self._look_at_stream(job)
            return await asyncio.to_thread(self._join, job, part, waiting)

    async def compose(self, job: str, part: str) -> Composition:
        """The part's groups by outcome, as far as they are recorded; one shard at a time is in memory."""
        async with self._one_at_a_time:
            waiting = await self._look_at_stream(job)
            return await asyncio.to_thread(self._compose, self._runs_root / job / "dataset" / part, waiting)

    async def fetch(self, job: str, recorded: Recorded, rows: Sequence[int]) -> dict[int, Trajectory]:
        """Whole trajectories by row; one that has left the stream meanwhile is looked for in the shards."""
        found: dict[int, Trajectory] = {}
        by_source: dict[int, list[int]] = {}
        for row in rows:
            by_source.setdefault(int(recorded.source[row]), []).append(row)
        for source, members in by_source.items():
            places = [int(recorded.place[row]) for row in members]
            if source == STREAM:
                entries = await asyncio.gather(*(self._fetch_entry(job, recorded.entries[place]) for place in places))
                found |= {row: one for row, one in zip(members, entries, strict=True) if one is not None}
            else:
                read = await asyncio.to_thread(shards.read_rows, recorded.shards[source], places)
                found |= dict(zip(members, read, strict=True))
        if moved := [row for row in rows if row not in found]:
            found |= await self._fetch_moved(job, recorded, moved)
        return found

    async def _fetch_entry(self, job: str, entry: str) -> Trajectory | None:
        held = await self._redis.xrange(keys.trajectories(job), min=entry, max=entry)
        return Trajectory.model_validate_json((held[0][1] or {})["trajectory"]) if held else None

    async def _fetch_moved(self, job: str, recorded: Recorded, rows: Sequence[int]) -> dict[int, Trajectory]:
        wanted = {(recorded.outcomes.group[row], recorded.outcomes.k[row]): row for row in rows}
        found: dict[int, Trajectory] = {}
        for fresh in await self.read(job, recorded.part):
            groups = np.isin(fresh.outcomes.group, recorded.outcomes.group[list(rows)])
            moved = np.flatnonzero(groups & (fresh.source != STREAM)).tolist()
            again = [row for row in moved if (fresh.outcomes.group[row], fresh.outcomes.k[row]) in wanted]
            read = await self.fetch(job, fresh, again)
            found |= {wanted[one.group, one.k]: one for one in read.values()}
        return found

    async def _look_at_stream(self, job: str) -> _Waiting:
        """Read on in the stream, each entry once, and forget what has left it; bounded by the high-water mark."""
        waiting = self._waiting.setdefault(job, _Waiting())
        self._waiting.move_to_end(job)
        if len(self._waiting) > _MOST_JOBS:
            self._waiting.popitem(last=False)
        while entries := await self._redis.xrange(keys.trajectories(job), min=waiting.last, count=_SCAN):
            read = [(str(id), str((fields or {}).get("trajectory", ""))) for id, fields in entries]
            waiting.entries |= await asyncio.to_thread(_summarise, read)
            waiting.last = f"({read[-1][0]}"
        stream = TrajectoryStream(self._redis, job)
        if await stream.backlog() < len(waiting.entries):  # the others are in shards, or in the dead letters
            held = await stream.find_held(waiting.entries)
            waiting.entries = {id: one for id, one in waiting.entries.items() if id in held}
        return waiting

    def _compose(self, folder: Path, waiting: _Waiting) -> Composition:
        rows, _ = Outcomes.join([*(row for name, _, row in waiting.entries.values() if name == folder.name), _NONE])
        in_shards = np.zeros(len(rows), np.bool_)
        composition = Composition()
        for path in shards.list_shards(folder):
            outcomes, _ = Outcomes.join([Outcomes.read(path)])
            composition += outcomes.compose()
            in_shards |= np.isin(rows.group, outcomes.group)
        return composition + rows.only(~in_shards).compose()

    def _join(self, job: str, part: str | None, waiting: _Waiting) -> list[Recorded]:
        root = self._runs_root / job / "dataset"
        folders = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set[str]()
        names = sorted(folders | {name for name, _, _ in waiting.entries.values()})
        joined = [self._join_part(root / name, waiting) for name in names if part in (None, name)]
        return [one for one in joined if len(one.outcomes)]

    def _join_part(self, folder: Path, waiting: _Waiting) -> Recorded:
        paths = shards.list_shards(folder)
        mine = [(id, policy, row) for id, (name, policy, row) in waiting.entries.items() if name == folder.name]
        if not mine and folder in self._joined and self._joined[folder].shards == paths:
            return self._joined[folder]
        held = [self._read_columns(path) for path in paths]
        if mine:
            in_shards = {int(group) for outcomes in held for group in np.unique(outcomes.group)}
            for id in [id for id, _, row in mine if int(row.group[0]) in in_shards]:
                del waiting.entries[id]
            mine = [one for one in mine if one[0] in waiting.entries]
        outcomes, order = Outcomes.join([*held, *(row for _, _, row in mine), _NONE])
        lengths = [len(outcomes) for outcomes in held]
        source = np.concatenate([np.repeat(np.arange(len(paths)), lengths), np.full(len(mine), STREAM)])
        place = np.concatenate([*(np.arange(length) for length in lengths), np.arange(len(mine))])
        policies = [shards.policy_of(path) for path in paths[:1]] + [policy for _, policy, _ in mine]
        recorded = Recorded(
            part=folder.name,
            policy=policies[0] if policies else "",
            outcomes=outcomes,
            source=source[order],
            place=place[order],
            shards=paths,
            entries=[id for id, _, _ in mine],
        )
        if not mine:
            self._joined[folder] = recorded
            if len(self._joined) > _MOST_JOBS:
                self._joined.popitem(last=False)
        return recorded

    def _read_columns(self, path: Path) -> Outcomes:
        if path not in self._columns:
            self._columns[path] = Outcomes.read(path)
            self._rows += len(self._columns[path])
        self._columns.move_to_end(path)
        read = self._columns[path]
        while self._rows > _MOST_ROWS and len(self._columns) > 1:
            _, dropped = self._columns.popitem(last=False)
            self._rows -= len(dropped)
        return read


_NONE = Outcomes.of([])


def _summarise(entries: Iterable[tuple[str, str]]) -> dict[str, tuple[str, str, Outcomes]]:
    read: dict[str, tuple[str, str, Outcomes]] = {}
    for id, payload in entries:
        try:
            one = Trajectory.model_validate_json(payload)
        except ValidationError:  # the recorder moves it to the dead letters
            continue
        read[id] = (one.part, one.policy, Outcomes.of([one]))
    return read
