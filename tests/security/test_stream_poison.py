"""Whatever somebody writes into the streams, the dataset stays whole and the processes go on."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.typing import EncodableT, FieldT

from services.trainer.courier import Courier
from services.trainer.ingest import Ingest
from services.trainer.settings import TrainerSettings
from shared import keys
from shared.shards import dataset_folder, read_part
from shared.stream import TrajectoryStream, connect
from tests.trainer.tiny import make_groups

Fields = dict[FieldT, EncodableT]


def poisons(job: str) -> list[Fields]:
    """Entries that no honest producer writes."""
    good = json.loads(make_groups(job, groups=1)[0].model_dump_json())
    changed = [
        {"schema_version": 99}, {"job": "../../etc"}, {"job": "another"}, {"stage": "../.."}, {"group": -1},
        {"k": 10_000}, {"group_size": 10**12}, {"turns": "x"}, {"turns": []}, {"phase": "../x"}, {"dataset": "../x"},
        {"unknown": 1},
    ]  # fmt: skip
    return [
        {"trajectory": ""}, {"trajectory": "{"}, {"trajectory": "null"}, {"trajectory": "\x80\x04K\x01."},
        {"other": "field"}, {"trajectory": "[" * 10_000}, {"trajectory": "9" * 10_000},
        *({"trajectory": json.dumps(good | {"group": 70 + n} | change)} for n, change in enumerate(changed)),
    ]  # fmt: skip


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> TrainerSettings:
    return TrainerSettings(redis_url=redis_url, runs_root=tmp_path / "runs", flush_seconds=0.1, redis_patience_s=5)


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():
            await asyncio.sleep(0.05)


async def test_poisoned_trajectories_are_buried_and_the_honest_ones_recorded(
    redis: Redis, settings: TrainerSettings, tmp_path: Path
) -> None:
    job = f"job-{uuid4().hex[:8]}"
    stream = TrajectoryStream(redis, job)
    await redis.zadd(keys.JOBS, {job: 0})
    bad = poisons(job)
    for entry in bad:
        await redis.xadd(keys.trajectories(job), entry)
    honest = make_groups(job, groups=3)
    for one in honest:
        await stream.publish(one, {"published": 1})
    part = dataset_folder(settings.runs_root, job, "rollout-0")

    async def recorded_and_released() -> bool:
        return recording.done() or (part.exists() and await redis.xlen(keys.trajectories(job)) == 1)

    async with connect(settings.redis_url) as own:
        recording = asyncio.create_task(Ingest(own, settings).run())
        await until(recorded_and_released)
        assert not recording.done(), recording.exception()
        recording.cancel()
        await asyncio.wait([recording])
    assert [(row.group, row.k) for row in read_part(part)] == [(one.group, one.k) for one in honest]
    # An episode without turns is well-formed: it waits for its siblings and harms nobody.
    entries = await redis.xrange(keys.trajectories(job)) or []
    left = [fields["trajectory"] for _, fields in entries if fields]
    assert await redis.xlen(keys.dead_letters(job)) + len(left) == len(bad)
    assert [json.loads(each)["group"] for each in left] == [78]
    assert {path.name for path in settings.runs_root.iterdir() if path.is_dir()} == {job}
    assert not (tmp_path / "etc").exists()


async def test_poisoned_tasks_are_refused_and_the_trainer_goes_on(redis: Redis, settings: TrainerSettings) -> None:
    tasks: list[Fields] = [
        {"task": ""}, {"task": "{}"}, {"other": "x"}, {"task": "[" * 10_000}, {"task": '{"job": "../.."}'}
    ]  # fmt: skip
    for fields in tasks:
        await redis.xadd(keys.TRAININGS, fields)

    def drain() -> list[object]:
        with Courier(settings) as courier:
            return [courier.next_task(0.2) for _ in range(12)]

    assert await asyncio.to_thread(drain) == [None] * 12
    assert await redis.xlen(keys.TRAININGS) == 0
