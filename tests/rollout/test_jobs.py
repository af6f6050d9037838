"""Jobs in Redis: what is asked twice, or by two at once, is done once and in full."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from services.rollout.jobs import Jobs, StaleConductor
from shared import keys
from shared.errors import Conflict
from shared.job import JobSpec
from tests.rollout.client import PROBLEMS

SPEC = JobSpec.model_validate({"name": "test", "dataset": {"problems": PROBLEMS}})


async def test_an_idempotency_key_makes_its_job_where_the_answer_of_redis_is_lost(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = redis.execute_command

    async def execute_twice(*command: Any, **options: Any) -> Any:
        """As the client does when the connection breaks before the answer."""
        await execute(*command, **options)
        return await execute(*command, **options)

    jobs = Jobs(redis)
    monkeypatch.setattr(redis, "execute_command", execute_twice)
    made = await jobs.create(SPEC, "key")
    again = await jobs.create(SPEC, "key")
    assert made.id == again.id == (await jobs.get(made.id)).id
    assert [status.id for status in await jobs.unfinished()] == [made.id]


async def test_a_resume_never_takes_back_a_cancellation(redis: Redis) -> None:
    jobs = Jobs(redis)
    job = (await jobs.create(SPEC)).id
    for _ in range(50):
        await jobs.command(job, "pause")
        resumed, cancelled = await asyncio.gather(jobs.resume(job), jobs.command(job, "cancel"), return_exceptions=True)
        assert isinstance(resumed, Conflict) or not isinstance(resumed, BaseException)
        assert not isinstance(cancelled, BaseException)
        assert await jobs.asked(job) == "cancel"
        await redis.delete(keys.command(job))


async def test_no_conductor_goes_on_from_a_status_that_redis_has_lost(redis: Redis) -> None:
    """Nor over that of a later one; but a write that is repeated, since its answer was lost, is no conflict."""
    jobs = Jobs(redis)
    status = await jobs.create(SPEC)
    names = [keys.fence(status.id), keys.status(status.id)]
    await jobs.write(status.model_copy(update={"steps_done": 1}), 1)
    kept = {name: str(await redis.get(name)) for name in names}
    await jobs.write(status.model_copy(update={"steps_done": 2}), 1)
    for name, value in kept.items():
        await redis.set(name, value)
    with pytest.raises(StaleConductor):
        await jobs.write(status.model_copy(update={"steps_done": 3}), 1)
    assert (await jobs.get(status.id)).steps_done == 1

    later = Jobs(redis)
    await later.write(status.model_copy(update={"steps_done": 2}), 2)
    with pytest.raises(StaleConductor):
        await jobs.write(status, 1)
    fence = await redis.get(names[0])
    await Jobs(redis).write(status.model_copy(update={"steps_done": 2}), 2)
    assert await redis.get(names[0]) == fence
    await later.write(status.model_copy(update={"steps_done": 3}), 2)
    assert (await jobs.get(status.id)).steps_done == 3
