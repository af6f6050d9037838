"""Tickets: every group below their counter has one until it is published whole, whatever Redis has lost."""

import uuid

from redis.asyncio import Redis

from services.rollout.jobs import Part
from services.rollout.tickets import Tickets
from shared import keys
from shared.stream import connect
from shared.trajectory import Problem
from tests.rollout.client import PROBLEMS, make_part

ROWS = [Problem.model_validate(row) for row in PROBLEMS]


async def open_tickets(redis: Redis) -> tuple[Part, Tickets]:
    part = make_part(uuid.uuid4().hex, group_size=4)
    tickets = Tickets(redis, part)
    await tickets.prepare()
    return part, tickets


async def test_tickets_are_written_once_and_none_behind_lost_ones(valkey: str) -> None:
    async with connect(valkey) as redis:
        _, tickets = await open_tickets(redis)
        for _ in range(2):  # the answer to the first was lost, or another conductor has been here
            await tickets.write(0, ROWS[:2])
        await tickets.write(4, ROWS[4:])
        assert (await tickets.made(), await tickets.waiting()) == (2, 2)
        await tickets.write(2, ROWS[2:])
        leased = await tickets.lease("one", 10, 10)
        assert [(ticket.group, ticket.problem) for ticket in leased] == list(enumerate(ROWS))


async def test_a_group_that_is_not_published_whole_keeps_its_ticket(valkey: str) -> None:
    async with connect(valkey) as redis:
        part, tickets = await open_tickets(redis)
        await tickets.write(0, ROWS[:2])
        _, ticket = await tickets.lease("one", 2, 10)
        done = keys.done(part.job, part.name)
        for bit in (5, 6, 7):
            await redis.setbit(done, bit, 1)
        await tickets.punch(ticket)
        await tickets.give_back("one", [ticket.id])
        (again,) = await tickets.reclaim("two", 2)
        assert (again.id, again.group, again.again) == (ticket.id, 1, True)
        await redis.setbit(done, 4, 1)
        await tickets.punch(again)
        assert await redis.xlen(keys.tickets(part.job, part.name)) == 1
