"""The stream of trajectories between rollout workers and the trainer.

Publishing is idempotent: one Lua script adds the entry, marks the trajectory done and counts it, or does
nothing. Entries stay until the consumer releases them (after they are safe in the dataset), so that a
crash on either side loses and doubles nothing. Producers look at `backlog` before they begin a new group;
a group that has begun may always finish, so that holding back never deadlocks.
"""

# redis-py types `from_url` in part only.
# pyright: reportUnknownMemberType=false

import asyncio
import builtins
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from shared import keys
from shared.errors import DriftError
from shared.trajectory import Trajectory

_PUBLISH = Path(__file__).with_name("publish.lua").read_text()

SOCKET_TIMEOUT_S = 30.0
"""Above every blocking read's time, else the client gives up before the server answers."""

MAX_CONNECTIONS = 32
"""Of one process; who finds none free waits for one."""

CONNECTION_WAIT_S = 120.0
"""Above the time for which those that have one wait for a Redis that restarts, else whoever waits behind them gives up
before they do."""

_RETRY = Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=60, supported_errors=(ConnectionError, TimeoutError))
"""About a minute: a Redis that restarts is waited for. Every write here may be repeated without harm."""


class Superseded(DriftError):
    """Another part has the engines by now: the last turns may have been sampled under its policy."""


def connect(url: str) -> Redis:
    """The one way to a Redis client: any bytes decoded, deadlines and connections bounded, restarts waited for."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=CONNECTION_WAIT_S,
        decode_responses=True,
        encoding_errors="surrogateescape",  # bytes that are no UTF-8 reach their reader, who can say so, unchanged
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=5.0,
        retry=_RETRY,
        protocol=2,
    )
    pool.connection_class = type("CancelSafeConnection", (_CancelSafe, pool.connection_class), {})
    return Redis.from_pool(pool)


class _CancelSafe(AbstractConnection):
    """A connection whose sending can be cancelled.

    redis-py sends under `asyncio.wait_for`, which before Python 3.12 drops a cancellation that arrives as the
    send completes: the task goes on for ever. `asyncio.timeout` has the same deadline and drops none.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        deadline, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(deadline):
                await super().send_packed_command(command, check_health)
        except builtins.TimeoutError:
            raise TimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = deadline


async def ensure_group(redis: Redis, stream: str, group: str) -> None:
    """Create the consumer group at the stream's beginning; nothing happens where it exists."""
    try:
        await redis.xgroup_create(stream, group, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


Answer = list[tuple[str, list[tuple[str, dict[str, str]]]]]
"""What XREADGROUP answers under protocol 2: [(stream, [(id, fields)])]."""


@dataclass(frozen=True)
class Entry:
    """One raw entry of the stream: its id there and the trajectory's JSON."""

    id: str
    payload: str


class TrajectoryStream:
    """The stream of one job."""

    def __init__(self, redis: Redis, job: str) -> None:
        self._redis = redis
        self._job = job
        self._name = keys.trajectories(job)
        self._publish = redis.register_script(_PUBLISH)

    async def publish(self, trajectory: Trajectory, counts: Mapping[str, float], active: str = "") -> bool:
        """Add the trajectory and its counts; False when it had been published before.

        Raises `Superseded` where `active` is given, and is not what `keys.ACTIVE` holds.
        """
        part = trajectory.part
        bit = trajectory.group * trajectory.group_size + trajectory.k
        arguments: list[str | int | float] = [bit, trajectory.model_dump_json(), active]
        for name, increment in counts.items():
            arguments += [name, increment]
        names = [self._name, keys.done(self._job, part), keys.counts(self._job, part), keys.ACTIVE]
        published = int(await self._publish(keys=names, args=arguments))
        if published < 0:
            raise Superseded(f"{part} of job {self._job} is not active any more.")
        return bool(published)

    async def backlog(self) -> int:
        """Entries not yet released by the consumer."""
        return await self._redis.xlen(self._name)

    async def read(self, consumer: str, count: int, block_ms: int) -> list[Entry]:
        """New entries for this consumer; empty after `block_ms` without any."""
        answer = await self._redis.xreadgroup(
            keys.TRAINER_GROUP, consumer, {self._name: ">"}, count=count, block=block_ms
        )
        read = cast(Answer, answer or [])
        return [Entry(id, fields.get("trajectory", "")) for _, entries in read for id, fields in entries]

    async def reclaim(self, consumer: str, idle_ms: int) -> AsyncIterator[list[Entry]]:
        """Entries that a consumer (this one before a crash, or a dead one) read and never released."""
        start = "0-0"
        while True:
            start, entries, *_ = await self._redis.xautoclaim(
                self._name, keys.TRAINER_GROUP, consumer, min_idle_time=idle_ms, start_id=start, count=256
            )
            yield [Entry(id, fields.get("trajectory", "")) for id, fields in entries if fields]
            if start == "0-0":
                return

    async def find_held(self, entries: Iterable[str]) -> set[str]:
        """Which of these entries have not been released, without their payloads.

        The consumer has yet to read them, or has read them and not yet acknowledged.
        """
        if not (count := await self.backlog()):
            return set()
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xinfo_groups(self._name)
            pipe.xpending_range(self._name, keys.TRAINER_GROUP, min="-", max="+", count=count)
            groups, pending = await pipe.execute()
        read_to = max(_place(group["last-delivered-id"]) for group in groups)
        unacknowledged = {one["message_id"] for one in pending}
        return {entry for entry in entries if entry in unacknowledged or _place(entry) > read_to}

    async def release(self, entries: Sequence[str]) -> None:
        """Acknowledge and delete entries that are safe elsewhere: an acknowledgement alone frees no memory."""
        if entries:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.xack(self._name, keys.TRAINER_GROUP, *entries)
                pipe.xdel(self._name, *entries)
                await pipe.execute()

    async def bury(self, entry: Entry, reason: str) -> None:
        """Move an entry that cannot be read to the dead letters, with the reason."""
        await self._redis.xadd(
            keys.dead_letters(self._job), {"payload": entry.payload, "reason": reason}, maxlen=10_000, approximate=True
        )
        await self.release([entry.id])


def _place(entry: str) -> tuple[int, int]:
    """In the stream: ids are in order as numbers, not as text."""
    time, sequence = entry.split("-")
    return int(time), int(sequence)
