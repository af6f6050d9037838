"""Tickets: one for each group to roll out, in a stream that the workers of all replicas share.

A worker leases a ticket and keeps the lease alive; a dead worker's tickets are claimed by another. Playing a
group twice is harmless, since publishing is idempotent. A played ticket is deleted, so that memory stays flat. Whatever
Redis loses of its last writes: each group below the counter has its ticket or is published whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from redis.asyncio import Redis

from services.rollout.jobs import Part
from shared import keys
from shared.stream import Answer, ensure_group
from shared.trajectory import Problem

_HAND_OUT = Path(__file__).with_name("hand_out.lua").read_text()
_PUNCH = Path(__file__).with_name("punch.lua").read_text()
LEASE_MS = 15_000
"""A ticket whose worker has not been heard of for this long goes to another."""


@dataclass(frozen=True)
class Ticket:
    """One group to play."""

    id: str
    group: int
    problem: Problem
    again: bool
    """Leased before: some of its trajectories may be published."""


class Tickets:
    """The tickets of one part."""

    def __init__(self, redis: Redis, part: Part) -> None:
        self._redis = redis
        self._part = part
        self._stream = keys.tickets(part.job, part.name)
        self._made = keys.tickets_made(part.job, part.name)
        self._reclaimed_to = "0-0"
        self._hand_out, self._punch = redis.register_script(_HAND_OUT), redis.register_script(_PUNCH)

    async def prepare(self) -> None:
        """Create the stream and its consumer group."""
        await ensure_group(self._redis, self._stream, keys.ROLLOUT_GROUP)

    async def made(self) -> int:
        """Groups that have tickets, or had."""
        return int(await self._redis.get(self._made) or 0)

    async def waiting(self) -> int:
        """Tickets that nobody has leased yet."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xlen(self._stream)
            pipe.xpending(self._stream, keys.ROLLOUT_GROUP)
            length, leased = await pipe.execute()
        return length - leased["pending"]

    async def write(self, first_group: int, problems: Sequence[Problem]) -> None:
        """Write the tickets of consecutive groups, or none where they are not the next: `made` says which are."""
        rows = [problem.model_dump_json() for problem in problems]
        await self._hand_out(keys=[self._stream, self._made], args=[first_group, *rows])

    async def lease(self, worker: str, count: int, block_ms: int) -> list[Ticket]:
        """Up to `count` new tickets; empty after `block_ms` without any."""
        answer = await self._redis.xreadgroup(
            keys.ROLLOUT_GROUP, worker, {self._stream: ">"}, count=count, block=block_ms
        )
        return [_read(id, fields, again=False) for _, entries in cast(Answer, answer or []) for id, fields in entries]

    async def reclaim(self, worker: str, count: int) -> list[Ticket]:
        """Up to `count` tickets whose workers are dead; each call looks on from where the last one stopped."""
        self._reclaimed_to, entries, *_ = await self._redis.xautoclaim(
            self._stream,
            keys.ROLLOUT_GROUP,
            worker,
            min_idle_time=LEASE_MS,
            start_id=self._reclaimed_to,
            count=count,
        )
        return [_read(id, fields, again=True) for id, fields in entries if fields]

    async def renew(self, worker: str, tickets: Sequence[str]) -> None:
        """Keep the leases of tickets being played."""
        if tickets:
            await self._redis.xclaim(self._stream, keys.ROLLOUT_GROUP, worker, 0, list(tickets), justid=True)

    async def give_back(self, worker: str, tickets: Sequence[str]) -> None:
        """End the leases of tickets that were not finished: the next worker may claim them at once."""
        if tickets:
            await self._redis.xclaim(
                self._stream, keys.ROLLOUT_GROUP, worker, 0, list(tickets), idle=LEASE_MS, justid=True
            )

    async def punch(self, ticket: Ticket) -> None:
        """The group is played: the ticket goes, or is left to be reclaimed where some of it is not published."""
        size = self._part.group_size
        names = [self._stream, keys.done(self._part.job, self._part.name)]
        await self._punch(keys=names, args=[keys.ROLLOUT_GROUP, ticket.id, ticket.group * size, size])


def _read(id: str, fields: dict[str, str], *, again: bool) -> Ticket:
    return Ticket(id, int(fields["group"]), Problem.model_validate_json(fields["problem"]), again)
