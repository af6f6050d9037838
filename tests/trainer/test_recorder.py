"""Promises of the recorder: it needs no PyTorch, there is one writer at a time, and another takes over."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from services.trainer.courier import Courier
from services.trainer.ingest import Ingest
from services.trainer.settings import TrainerSettings
from shared import keys
from shared.shards import Ledger, dataset_folder, read_part, recorded_groups, write_shard
from shared.stream import TrajectoryStream, connect
from tests.trainer.tiny import make_groups

WITHOUT_TORCH = (
    "import runpy, sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'numpy')));"
    "runpy.run_module('services.trainer.recorder', run_name='__main__')"
)


@contextmanager
def recorder(redis_url: str, runs_root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A recorder in a process where PyTorch cannot be imported."""
    environment = os.environ | {"DRIFT_REDIS_URL": redis_url, "DRIFT_RUNS_ROOT": str(runs_root)}
    process = subprocess.Popen([sys.executable, "-c", WITHOUT_TORCH], env=environment, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> TrainerSettings:
    return TrainerSettings(redis_url=redis_url, runs_root=tmp_path, flush_seconds=0.1, redis_patience_s=5)


async def publish(redis: Redis, job: str, groups: slice) -> None:
    await redis.zadd(keys.JOBS, {job: 0})
    for one in [one for one in make_groups(job, groups=8) if one.group in range(8)[groups]]:
        await TrajectoryStream(redis, job).publish(one, {"published": 1})


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_a_recorder_alone_empties_the_stream_and_another_takes_over_from_a_killed_one(
    redis_url: str, tmp_path: Path
) -> None:
    job = f"job-{uuid4().hex[:8]}"
    folder = dataset_folder(tmp_path, job, "rollout-0")

    def recorded(count: int) -> Callable[[], Awaitable[bool]]:
        async def holds() -> bool:
            return len(recorded_groups(folder)) == count and not await TrajectoryStream(redis, job).backlog()

        return holds

    async with connect(redis_url) as redis:
        with recorder(redis_url, tmp_path) as first:
            await publish(redis, job, slice(0, 4))
            await until(recorded(4))
            assert await redis.exists(keys.RECORDER_ALIVE)
            with recorder(redis_url, tmp_path) as second:
                first.send_signal(signal.SIGKILL)
                first.wait(60)
                await publish(redis, job, slice(4, 8))
                await until(recorded(8))
                second.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(second.wait, 60) == 0
    assert [(row.group, row.k) for row in read_part(folder)] == [(group, k) for group in range(8) for k in range(4)]


async def test_a_trainer_beside_a_recorder_stands_by_and_sees_what_the_other_wrote(
    settings: TrainerSettings, redis_url: str
) -> None:
    job = f"job-{uuid4().hex[:8]}"
    async with connect(redis_url) as redis:
        recording = asyncio.create_task(Ingest(redis, settings).run())
        await until(lambda: _exists(redis, keys.RECORDER_ALIVE))
        with Courier(settings):
            await publish(redis, job, slice(0, 8))

            async def seen() -> bool:
                return len(recorded_groups(dataset_folder(settings.runs_root, job, "rollout-0"))) == 8

            await until(seen)
            consumers = await redis.xinfo_consumers(keys.trajectories(job), keys.TRAINER_GROUP)
            assert len(consumers) == 1
            recording.cancel()
            await asyncio.wait([recording])
            later = f"job-{uuid4().hex[:8]}"
            await publish(redis, later, slice(0, 3))

            async def taken_over() -> bool:
                return len(recorded_groups(dataset_folder(settings.runs_root, later, "rollout-0"))) == 3

            await until(taken_over)


async def _exists(redis: Redis, name: str) -> bool:
    return bool(await redis.exists(name))


def test_a_recorder_without_redis_says_so_and_ends(tmp_path: Path) -> None:
    environment = os.environ | {"DRIFT_REDIS_URL": "http://nonsense", "DRIFT_RUNS_ROOT": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-m", "services.trainer.recorder"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "DRIFT_REDIS_URL" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_ledger_reads_on_from_where_it_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.groups() == set()
    write_shard(tmp_path, make_groups(groups=2))
    assert ledger.groups() == {0, 1}
    write_shard(tmp_path, [one.model_copy(update={"group": 5}) for one in make_groups(groups=1)])
    assert ledger.groups() == {0, 1, 5}
