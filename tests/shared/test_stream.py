"""The client of Redis: a cancelled task ends, whatever it was doing there."""

import asyncio
import random

from shared.stream import connect

TASKS = 300


async def test_no_cancellation_is_lost_on_the_way_to_redis(valkey: str) -> None:
    rng = random.Random(0)
    async with connect(valkey) as redis:

        async def work() -> None:
            while True:
                await redis.incr("drift:test:counter")

        await redis.ping()
        for _ in range(TASKS):
            task = asyncio.create_task(work())
            for _ in range(rng.randrange(60)):
                await asyncio.sleep(0)
            task.cancel()
            _, alive = await asyncio.wait([task], timeout=10)
            assert not alive, "the task goes on after its cancellation"
