"""Jobs as Redis keeps them: an immutable spec, a status written by the conductor alone, and the user's commands."""

import re
import secrets
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal, cast

from redis.asyncio import Redis

import shared
from services.rollout.bell import Bell
from shared import keys
from shared.errors import Conflict, DriftError, NotFound
from shared.job import JobSpec
from shared.schema import Schema
from shared.status import JobStatus, State
from shared.telemetry import get_logger
from shared.trajectory import Phase, part_name

Command = Literal["cancel", "pause"]

MAX_EVENTS = 2_000
IDEMPOTENCY_S = 7 * 24 * 3600
_LOOK = 200
"""Statuses that are read at once in search of a state."""
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
log = get_logger(__name__)
_ADVANCE = (Path(shared.__file__).with_name("advance.lua")).read_text()
_TAKE_BACK = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"
"""Delete a command, if it is still this one: a cancellation may have taken its place."""


class StaleConductor(DriftError):
    """Another replica conducts now, or Redis has lost what this one wrote: whatever it was doing, it begins anew."""


class Part(Schema):
    """One rollout or evaluation of a job: what the workers of all replicas work on."""

    job: str
    phase: Phase
    stage: int
    dataset: int
    policy: str
    weights: str
    """Folder or hub name that the engines must be serving."""
    model: str
    """Name that the engines serve the policy under."""
    group_size: int
    groups: int = 0
    """All of the part; 0 where whoever began it does not say."""

    @property
    def name(self) -> str:
        return part_name(self.phase, self.stage, self.dataset)


class Jobs:
    """All jobs."""

    def __init__(self, redis: Redis) -> None:
        self.bell = Bell()
        """Rings when this replica has changed what there is to do."""
        self._redis = redis
        self._advance = redis.register_script(_ADVANCE)
        self._take_back = redis.register_script(_TAKE_BACK)
        self._writes: dict[str, tuple[int, int]] = {}
        """By job, the token of this process' last write of its status, and how many writes that token has made."""
        self._activated: Part | None = None

    async def create(self, spec: JobSpec, idempotency_key: str | None = None) -> JobStatus:
        """Queue a job; the same idempotency key gives the job that it made before, for a week.

        Raises `Conflict` where that one has another spec. The key decides: a job is listed, and so will run, only
        once the key is its own, and a crash in between is mended by whoever sends the key again.
        """
        now = time.time()
        job = time.strftime("%Y%m%d-%H%M%S-", time.gmtime(now)) + secrets.token_hex(3)
        status = JobStatus(id=job, name=spec.name, state=State.QUEUED, created=now)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(keys.spec(job), spec.model_dump_json())
            pipe.set(keys.status(job), status.model_dump_json())
            await pipe.execute()
        if idempotency_key is not None:
            name = keys.idempotency(idempotency_key)
            # The one who has the key, not whether this call gave it: the client repeats a call whose answer was lost.
            owner = await self._redis.set(name, job, nx=True, get=True, ex=IDEMPOTENCY_S)
            if owner not in (None, job):
                await self._redis.delete(keys.spec(job), keys.status(job))
                status = await self._find_earlier(spec, str(owner))
        if not status.state.final:
            await self._redis.zadd(keys.UNFINISHED, {status.id: status.created}, nx=True)
        await self._redis.zadd(keys.JOBS, {status.id: status.created}, nx=True)
        self.bell.ring()
        log.info("job_submitted", job=status.id, name=spec.name, dataset=spec.dataset.name if spec.dataset else None)
        return status

    async def _find_earlier(self, spec: JobSpec, job: str) -> JobStatus:
        if await self.spec(job) != spec:
            raise Conflict(
                f"The idempotency key belongs to job {job}, which has another spec.",
                remedy="Send a new Idempotency-Key.",
            )
        return await self.get(job)

    async def get(self, job: str) -> JobStatus:
        """Raises `NotFound`."""
        status = JobStatus.model_validate_json(await self._look_up(job, keys.status(job)))
        return status.model_copy(update={"dead_letters": await self._redis.xlen(keys.dead_letters(job))})

    async def spec(self, job: str) -> JobSpec:
        """Raises `NotFound`."""
        return JobSpec.model_validate_json(await self._look_up(job, keys.spec(job)))

    async def _look_up(self, job: str, key: str) -> str:
        found = await self._redis.get(key) if _ID.fullmatch(job) else None
        if found is None:
            raise NotFound(f"There is no job {job[:64]!r}.", remedy="GET /v1/jobs lists them.")
        return str(found)

    async def recent(self, limit: int = 100, before: str | None = None, state: State | None = None) -> list[JobStatus]:
        """The newest first; those older than the job `before`, and of one state where it is given.

        Raises `NotFound` where there is no job `before`.
        """
        if state is not None and not state.final:  # they are few, however many are over
            last = await self.get(before) if before is not None else None
            older = [
                status
                for status in reversed(await self.unfinished())
                if status.state is state and (last is None or (status.created, status.id) < (last.created, last.id))
            ]
            return older[:limit]
        found: list[JobStatus] = []
        count, more = limit if state is None else _LOOK, True
        while more and len(found) < limit:
            first = 0 if before is None else await self._rank(before) + 1
            names = await self._redis.zrevrange(keys.JOBS, first, first + count - 1)
            found += [status for status in await self._read(names) if state in (None, status.state)]
            more = len(names) == count
            before = str(names[-1]) if names else before
        return found[:limit]

    async def _rank(self, job: str) -> int:
        rank = await self._redis.zrevrank(keys.JOBS, job)
        if rank is None:
            raise NotFound(f"There is no job {job[:64]!r}.", remedy="Pass the last page's `next`.")
        return cast(int, rank)

    async def unfinished(self) -> list[JobStatus]:
        """The oldest first."""
        statuses = await self._read(await self._redis.zrange(keys.UNFINISHED, 0, -1))
        if over := [status.id for status in statuses if status.state.final]:
            await self._redis.zrem(keys.UNFINISHED, *over)
        return [status for status in statuses if not status.state.final]

    async def _read(self, jobs: Iterable[object]) -> list[JobStatus]:
        names = [keys.status(str(job)) for job in jobs]
        found = await self._redis.mget(names) if names else []
        return [JobStatus.model_validate_json(status) for status in found if status]

    async def write(self, status: JobStatus, token: int) -> JobStatus:
        """Replace the status.

        Raises `StaleConductor` when a later conductor has written it, or Redis has lost what this one wrote last.
        """
        job = status.id
        names = [keys.fence(job), keys.status(job), keys.events(job)]
        # Two thousand events, each with the losses of all steps so far, would be gigabytes.
        event = status.model_dump_json(exclude={"trainings": {"__all__": {"losses"}}})
        last_token, writes = self._writes.get(job, (token, 0))
        number = writes + 1 if last_token == token else 1
        if not await self._advance(keys=names, args=[token, number, status.model_dump_json(), event, MAX_EVENTS]):
            raise StaleConductor(f"Job {job} has another conductor, or Redis has lost its last status.")
        self._writes[job] = token, number
        return status

    async def command(self, job: str, command: Command) -> JobStatus:
        """Ask for a pause or a cancellation; the conductor obeys within about a second. Raises `Conflict` when over."""
        status = await self.get(job)
        if status.state.final:
            if command == "cancel" and status.state is State.CANCELLED:
                return status
            raise Conflict(f"Job {job} has already {status.state}.", remedy="Submit it again as a new job.")
        # A pause does not overwrite a cancellation.
        await self._redis.set(keys.command(job), command, nx=command == "pause")
        self.bell.ring()
        return status

    async def resume(self, job: str) -> JobStatus:
        """Take back a pause; raises `Conflict` for a job that is not paused."""
        status = await self.get(job)
        if not await self._take_back(keys=[keys.command(job)], args=["pause"]):
            raise Conflict(f"Job {job} is not paused.", remedy="Only a paused job can be resumed.")
        self.bell.ring()
        return status

    async def asked(self, job: str) -> Command | None:
        """What the user asked of this job."""
        match await self._redis.get(keys.command(job)):
            case "cancel":
                return "cancel"
            case "pause":
                return "pause"
            case _:
                return None

    async def activate(self, part: Part) -> None:
        """Set the workers of all replicas on this part."""
        await self._redis.set(keys.ACTIVE, part.model_dump_json())
        if part != self._activated:
            self._activated = part
            self.bell.ring()

    async def deactivate(self) -> None:
        """Stop the workers."""
        await self._redis.delete(keys.ACTIVE)
        self._activated = None
        self.bell.ring()

    async def deactivate_others(self, jobs: Collection[str]) -> None:
        """Stop the workers where they work on none of these jobs."""
        part = await self.active()
        if part and part.job not in jobs:
            await self.deactivate()

    async def active(self) -> Part | None:
        """What the workers should work on."""
        part = await self._redis.get(keys.ACTIVE)
        return Part.model_validate_json(part) if part else None

    async def counts(self, job: str, part: str) -> dict[str, float]:
        """The sums of one part; see `evaluation.py`."""
        sums = await self._redis.hgetall(keys.counts(job, part))
        return {str(name): float(value) for name, value in sums.items()}
