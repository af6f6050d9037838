"""The conductor may end at any moment: the workers play on for the next one, and for nobody who wants no more."""

import asyncio

import httpx
import pytest
from redis.asyncio import Redis

from services.rollout.app import create_app
from services.rollout.jobs import Command, Jobs, Part
from services.rollout.settings import RolloutSettings
from shared.job import JobSpec
from shared.status import State
from tests.fakes.engine import Serving
from tests.rollout.client import PROBLEMS, until


@pytest.mark.parametrize(("command", "state"), [("cancel", State.CANCELLED), ("pause", State.PAUSED)])
async def test_nobody_plays_on_for_a_job_that_was_stopped_while_no_replica_conducted(
    settings: RolloutSettings, redis: Redis, command: Command, state: State
) -> None:
    jobs = Jobs(redis)
    job = (await jobs.create(JobSpec.model_validate({"dataset": {"problems": PROBLEMS}}))).id
    await jobs.activate(
        Part(
            job=job,
            phase="rollout",
            stage=0,
            dataset=0,
            policy="base",
            weights="/weights/base",
            model="base",
            group_size=1,
            groups=len(PROBLEMS),
        )
    )
    await jobs.command(job, command)
    with Serving(create_app(settings)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as service:
            await until(service, job, lambda status: status.state is state)
        async with asyncio.timeout(60):
            while await jobs.active():
                await asyncio.sleep(0.02)
