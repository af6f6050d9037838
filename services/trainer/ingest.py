"""From the stream of trajectories to the dataset; a group leaves the stream only when its shard is safe on disk.

Nothing is lost and nothing doubled, wherever a crash falls: what was read and not released is read again, and
what the dataset already holds is released and not written again. Input that can never become part of a
complete group (malformed, foreign, or left over when its job has ended) goes to the dead letters with the reason.
One process at a time writes into a folder of runs: it holds `RUNS_ROOT/.recorder.lock`, the others stand by.
"""

import asyncio
import contextlib
import os
import socket
from collections import defaultdict
from collections.abc import Sequence
from typing import cast

from prometheus_client import Counter
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.trainer.folder_lock import FolderLock
from services.trainer.settings import RecorderSettings
from shared import keys
from shared.errors import Unavailable
from shared.shards import GroupSet, dataset_folder, recorded_groups, write_shard
from shared.status import JobStatus
from shared.stream import Entry, TrajectoryStream, ensure_group
from shared.telemetry import get_logger
from shared.trajectory import Trajectory

_CONSUMER = "ingest"
_READ = 256
_SCAN_S = 1.0
_RECLAIM_S = 60.0
_BEAT_S = 3.0
_ALIVE_S = 15
_SHARDS_A_SECOND = 100
"""A part of so many shards waits a second for its next one, `_RECLAIM_S` at most, when all is written anyhow: a slow
job of a day makes four thousand shards, not a hundred thousand."""
_SHARD_CHARACTERS = 32 << 20
"""JSON of complete groups that makes a shard without waiting: read into memory it takes several times as much."""
_LINGER_S = 60.0
"""An ended job's stream is followed this long without a new entry: its last episodes may still be on their way."""

_log = get_logger(__name__)
_entries = Counter("drift_ingest_entries", "Stream entries by what became of them", ["outcome"])


class _Patience:
    """Bears failures of Redis or of the disk for a while, one second at a time."""

    def __init__(self, doing: str, limit_s: float) -> None:
        self._doing = doing
        self._limit_s = limit_s
        self._failing_since: float | None = None

    def regain(self) -> None:
        """It works again."""
        self._failing_since = None

    async def bear(self, error: Exception) -> None:
        """Wait; raises `Unavailable` when there have been only failures for too long."""
        now = asyncio.get_running_loop().time()
        self._failing_since = self._failing_since or now
        _log.warning("ingest interrupted", doing=self._doing, error=str(error))
        if now - self._failing_since > self._limit_s:
            raise Unavailable(
                f"{self._doing} failed for {self._limit_s:.0f} s: {error}",
                remedy="Mend Redis or the disk and start again; nothing is lost.",
            ) from error
        await asyncio.sleep(1.0)


class Ingest:
    """Follows every job's stream. `run` ends only by an error or by cancellation."""

    def __init__(self, redis: Redis, settings: RecorderSettings) -> None:
        self._redis = redis
        self._settings = settings
        self._lock = FolderLock(settings.runs_root / ".recorder.lock")
        self._recorded: dict[tuple[str, str], GroupSet] = {}
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._ended: set[str] = set()

    async def recorded(self, job: str, part: str) -> GroupSet:
        """The groups of one part that the dataset holds, for its writer: nobody else adds any meanwhile."""
        if (job, part) not in self._recorded:
            folder = dataset_folder(self._settings.runs_root, job, part)
            self._recorded[job, part] = GroupSet(await asyncio.to_thread(recorded_groups, folder))
        return self._recorded[job, part]

    async def run(self) -> None:
        """Once no other writer holds the folder: look for jobs, follow each until it has ended and its stream is empty.

        What it raises comes as an `ExceptionGroup`.
        """
        if not self._lock.take():
            _log.info("standing by: another process records", runs_root=str(self._settings.runs_root.absolute()))
        while not self._lock.take():  # noqa: ASYNC110 - another process holds it
            await asyncio.sleep(_SCAN_S)
        _log.info("recording", runs_root=str(self._settings.runs_root.absolute()))
        patience = _Patience("Looking for jobs", self._settings.redis_patience_s)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                while True:
                    try:
                        await self._look_for_jobs(tasks)
                    except RedisError as error:
                        await patience.bear(error)
                    else:
                        patience.regain()
                        await asyncio.sleep(_SCAN_S)
        finally:
            self._lock.release()

    async def _beat(self) -> None:
        name = f"{socket.gethostname()}:{os.getpid()}"
        while True:
            with contextlib.suppress(RedisError):
                await self._redis.set(keys.RECORDER_ALIVE, name, ex=_ALIVE_S)
            await asyncio.sleep(_BEAT_S)

    async def _look_for_jobs(self, tasks: asyncio.TaskGroup) -> None:
        for job in await self._list_jobs():
            if job in self._ended or job in self._followed or not await self._redis.exists(keys.trajectories(job)):
                continue
            if await self._has_ended(job) and not await TrajectoryStream(self._redis, job).backlog():
                self._ended.add(job)
            else:
                self._followed[job] = tasks.create_task(self._follow(job))
        for job in [job for job, task in self._followed.items() if task.done()]:
            del self._followed[job]
            self._ended.add(job)

    async def _list_jobs(self) -> list[str]:
        return cast(list[str], await self._redis.zrange(keys.JOBS, 0, -1))

    async def _has_ended(self, job: str) -> bool:
        status = await self._redis.get(keys.status(job))
        return status is not None and JobStatus.model_validate_json(status).state.final

    async def _follow(self, job: str) -> None:
        """`_drain`, begun anew after each failure of Redis or of the disk, until patience ends."""
        patience = _Patience(f"Ingesting job {job}", self._settings.redis_patience_s)
        while True:
            assembly = Assembly(self, TrajectoryStream(self._redis, job), job, self._settings)
            try:
                await ensure_group(self._redis, keys.trajectories(job), keys.TRAINER_GROUP)
                return await self._drain(job, assembly, patience)
            except (RedisError, OSError) as error:
                if isinstance(error, OSError):  # a shard may be there that its writer knows nothing of
                    self._recorded = {key: groups for key, groups in self._recorded.items() if key[0] != job}
                await patience.bear(error)

    async def _drain(self, job: str, assembly: "Assembly", patience: _Patience) -> None:
        stream = TrajectoryStream(self._redis, job)
        clock = asyncio.get_running_loop().time
        quiet_since = clock()
        reclaimed_at = float("-inf")
        while True:
            if clock() - reclaimed_at > _RECLAIM_S:
                # At the start: what a crash left. Later: answers that were lost on the way from Redis.
                await assembly.flush()
                async for entries in stream.reclaim(_CONSUMER, idle_ms=0):
                    await assembly.take(entries)
                reclaimed_at = clock()
            block_ms = max(50, int(self._settings.flush_seconds * 500))
            entries = await stream.read(_CONSUMER, _READ, block_ms)
            await assembly.take(entries)
            await assembly.flush_if_due(clock())
            if assembly.settled:
                patience.regain()
            if entries:
                quiet_since = clock()
            elif clock() - quiet_since > _LINGER_S and await self._has_ended(job):
                return await assembly.close()


class Assembly:
    """The groups of one job on their way from the stream to the dataset."""

    def __init__(self, ingest: Ingest, stream: TrajectoryStream, job: str, settings: RecorderSettings) -> None:
        self._ingest = ingest
        self._stream = stream
        self._job = job
        self._settings = settings
        self._partial: dict[tuple[str, int], dict[int, tuple[Entry, Trajectory]]] = defaultdict(dict)
        self._complete: dict[tuple[str, int], list[tuple[Entry, Trajectory]]] = {}
        self._complete_since: float | None = None
        self._shards: defaultdict[str, int] = defaultdict(int)
        """Written so far, by part."""

    @property
    def settled(self) -> bool:
        """Whether nothing that could be written waits."""
        return not self._complete

    async def take(self, entries: Sequence[Entry]) -> None:
        """Sort new entries in: to their group, to the dead letters, or away if the dataset holds them."""
        stale: list[str] = []
        for entry in entries:
            trajectory = self._parse(entry)
            if isinstance(trajectory, str):
                await self._bury(entry, "malformed", trajectory)
                continue
            key = (trajectory.part, trajectory.group)
            siblings = self._partial[key]
            if key in self._complete or trajectory.group in await self._ingest.recorded(self._job, trajectory.part):
                stale.append(entry.id)
                del self._partial[key]
            elif trajectory.k in siblings:
                if siblings[trajectory.k][0].id != entry.id:
                    stale.append(entry.id)
            elif any(sibling.group_size != trajectory.group_size for _, sibling in siblings.values()):
                await self._bury(entry, "malformed", f"group_size {trajectory.group_size} differs from its siblings'")
            else:
                siblings[trajectory.k] = (entry, trajectory)
                if len(siblings) == trajectory.group_size:
                    self._complete[key] = list(self._partial.pop(key).values())
        await self._stream.release(stale)
        _entries.labels("duplicate").inc(len(stale))

    async def flush_if_due(self, now: float) -> None:
        """Write what is complete when it is enough for a shard, or has waited long enough."""
        if not self._complete:
            return
        self._complete_since = self._complete_since or now
        fewest = min(self._shards[part] for part, _ in self._complete)
        entries = [entry for members in self._complete.values() for entry, _ in members]
        if (
            now - self._complete_since >= max(self._settings.flush_seconds, fewest / _SHARDS_A_SECOND)
            or len(entries) >= self._settings.flush_trajectories
            or sum(len(entry.payload) for entry in entries) >= _SHARD_CHARACTERS
        ):
            await self.flush()

    async def flush(self) -> None:
        """Write the complete groups, one shard a part; only then release their entries."""
        parts: dict[str, list[tuple[Entry, Trajectory]]] = defaultdict(list)
        for (part, _), members in self._complete.items():
            parts[part] += members
        for part, members in parts.items():
            folder = dataset_folder(self._settings.runs_root, self._job, part)
            rows = [trajectory for _, trajectory in members]
            path = await asyncio.to_thread(write_shard, folder, rows)
            (await self._ingest.recorded(self._job, part)).update(row.group for row in rows)
            await self._stream.release([entry.id for entry, _ in members])
            self._shards[part] += 1
            _entries.labels("recorded").inc(len(members))
            _log.debug("shard written", job=self._job, part=part, shard=path.name, trajectories=len(rows))
        self._complete.clear()
        self._complete_since = None

    async def close(self) -> None:
        """The job has ended: write what is complete, bury what never will be."""
        await self.flush()
        for (part, group), siblings in self._partial.items():
            for entry, trajectory in siblings.values():
                reason = f"the job ended with {len(siblings)} of {trajectory.group_size} of group {part}:{group}"
                await self._bury(entry, "incomplete", reason)
        self._partial.clear()

    def _parse(self, entry: Entry) -> Trajectory | str:
        """The trajectory, or why there is none."""
        try:
            trajectory = Trajectory.model_validate_json(entry.payload)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, fault['loc'])) or 'entry'}: {fault['msg']}" for fault in error.errors()[:5]]
            return "; ".join(faults)
        if trajectory.job != self._job:
            return f"it belongs to job {trajectory.job!r}"
        if trajectory.k >= trajectory.group_size:
            return f"k {trajectory.k} is not below group_size {trajectory.group_size}"
        return trajectory

    async def _bury(self, entry: Entry, outcome: str, reason: str) -> None:
        await self._stream.bury(entry, reason)
        _entries.labels(outcome).inc()
        _log.warning("entry buried", job=self._job, entry=entry.id, reason=reason)
