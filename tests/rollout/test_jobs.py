"""Jobs in Redis: what is asked twice, or by two at once, is done once and in full."""

from typing import Any

import pytest
from redis.asyncio import Redis

from services.rollout.jobs import Jobs
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
