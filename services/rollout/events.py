"""A job's events as server-sent events: every change of its status, every step of its training.

Ids are the stream's own, so that a client that comes back with `Last-Event-ID` misses and repeats nothing
(as long as the event is among the newest two thousand, and the job not over for more than a week).
"""

import asyncio
import re
from collections.abc import AsyncIterator

from redis.asyncio import Redis

from shared import keys
from shared.errors import SpecError
from shared.status import JobStatus

POLL_S = 0.3
KEEP_ALIVE_S = 15.0
_BATCH = 100
_END = "event: end\ndata: {}\n\n"
_ID = re.compile(r"\d{1,20}-\d{1,20}")


def check_event_id(last: str | None) -> str:
    """The id to go on after; from the beginning where none is given. Raises `SpecError`."""
    if last is None:
        return "0-0"
    if not _ID.fullmatch(last) or any(int(part) >= 1 << 64 for part in last.split("-")):
        raise SpecError(f"Last-Event-ID {last[:40]!r} is not an event's id.", remedy="Send the last id received.")
    return last


async def newest_event(redis: Redis, job: str) -> str:
    """Id of the job's newest event, to go on after."""
    entries = await redis.xrevrange(keys.events(job), count=1)
    return str(entries[0][0]) if entries else "0-0"


async def follow(redis: Redis, job: str, last: str) -> AsyncIterator[str]:
    """Events after `last` in the text/event-stream format; an event `end` follows the job's last one."""
    over = await _is_over(redis, job)  # asked first: whatever it had to say is in the stream by then
    newest = await newest_event(redis, job)
    if _order(last) >= _order(newest):
        if over:
            yield _END
            return
        last = newest
    loop = asyncio.get_running_loop()
    spoke = loop.time()
    while True:
        # Polled, not blocked on: every open page would hold a connection to Redis.
        entries = await redis.xrange(keys.events(job), min=f"({last}", count=_BATCH) or []
        for entry, fields in entries:
            last, kind, data = str(entry), (fields or {})["type"], (fields or {})["data"]
            yield f"id: {last}\nevent: {kind}\ndata: {data}\n\n"
            if kind == "status" and JobStatus.model_validate_json(data).state.final:
                yield _END
                return
        if entries:
            spoke = loop.time()
            continue
        if loop.time() - spoke > KEEP_ALIVE_S:
            spoke = loop.time()
            if await _is_over(redis, job):  # it ended between the two looks above
                yield _END
                return
            yield ": still there\n\n"
        await asyncio.sleep(POLL_S)


def _order(event: str) -> tuple[int, int]:
    time, _, number = event.partition("-")
    return int(time), int(number)


async def _is_over(redis: Redis, job: str) -> bool:
    status = await redis.get(keys.status(job))
    return status is not None and JobStatus.model_validate_json(status).state.final
