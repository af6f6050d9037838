"""The one user that compose's Redis has can do all that the services do, and nothing that they do not."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from services.rollout.settings import RolloutSettings
from services.trainer.courier import Courier
from services.trainer.settings import TrainerSettings
from shared.shards import dataset_folder, recorded_groups
from shared.status import State
from tests.conftest import serve_valkey
from tests.rollout.client import finish, submit

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A Valkey that knows compose's user only."""
    [rules] = re.findall(r"user drift on >%s (.*?)\\n", COMPOSE.read_text())
    with serve_valkey() as url:
        admin = Redis.from_url(url)
        admin.execute_command("ACL", "SETUSER", "drift", "on", ">password", *rules.split())
        admin.execute_command("ACL", "SETUSER", "default", "off")
        yield url.replace("unix://", "unix://drift:password@")


async def test_a_job_and_the_trainers_side_run_as_that_user(
    service: httpx.AsyncClient, settings: RolloutSettings
) -> None:
    trainer = TrainerSettings(redis_url=settings.redis_url, runs_root=settings.runs_root, flush_seconds=0.1)

    def ingest(job: str) -> int:
        with Courier(trainer) as courier:
            while len(recorded_groups(dataset_folder(settings.runs_root, job, "rollout-0"))) < 6:
                courier.next_task(0.1)
                courier.is_cancelled(job)
        return len(recorded_groups(dataset_folder(settings.runs_root, job, "rollout-0")))

    job = await submit(service, sampling={"trajectories": 2})
    status = await finish(service, job)
    assert status.state is State.SUCCEEDED, status.error
    assert await asyncio.wait_for(asyncio.to_thread(ingest, job), 60) == 6


def test_other_keys_and_dangerous_commands_are_refused(redis_url: str) -> None:
    user = Redis.from_url(redis_url)
    assert user.set("drift:x", 1)
    for command in (("GET", "x"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"), ("ACL", "LIST"), ("SHUTDOWN",),
                    ("REPLICAOF", "h", "1"), ("MODULE", "LIST"), ("PUBLISH", "c", "m")):  # fmt: skip
        with pytest.raises(NoPermissionError):
            user.execute_command(*command)
