"""The conductor may end at any moment: the workers play on for the next one, and for nobody who wants no more."""

import asyncio

import httpx
import pytest
from redis.asyncio import Redis

from services.rollout.app import create_app
from services.rollout.jobs import Command, Jobs
from services.rollout.settings import RolloutSettings
from shared.job import JobSpec
from shared.status import State
from tests.fakes.engine import FakeEngine, Serving
from tests.rollout.client import PROBLEMS, finish, make_part, submit, until


@pytest.mark.parametrize(("command", "state"), [("cancel", State.CANCELLED), ("pause", State.PAUSED)])
async def test_nobody_plays_on_for_a_job_that_was_stopped_while_no_replica_conducted(
    settings: RolloutSettings, redis: Redis, command: Command, state: State
) -> None:
    jobs = Jobs(redis)
    job = (await jobs.create(JobSpec.model_validate({"dataset": {"problems": PROBLEMS}}))).id
    await jobs.activate(make_part(job))
    await jobs.command(job, command)
    with Serving(create_app(settings)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as service:
            await until(service, job, lambda status: status.state is state)
        async with asyncio.timeout(60):
            while await jobs.active():
                await asyncio.sleep(0.02)


async def test_a_conductor_that_stops_leaves_the_workers_at_their_episodes_for_the_next(
    settings: RolloutSettings, redis: Redis, engine: FakeEngine
) -> None:
    engine.latency_s = 1
    slow = settings.model_copy(update={"engine_in_flight_min": 2, "engine_in_flight_max": 2})
    with Serving(create_app(slow)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as service:
            job = await submit(service, sampling={"trajectories": 40})
            await until(service, job, lambda status: status.phase == "rollout" and engine.in_flight > 0)
    part = await Jobs(redis).active()
    assert part is not None and part.job == job
    engine.latency_s = 0
    with Serving(create_app(settings)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as service:
            status = await finish(service, job)
    assert (status.state, status.rollouts[0].trajectories) == (State.SUCCEEDED, 240)
    assert await Jobs(redis).active() is None
