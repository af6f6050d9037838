"""Promises of ingest, against a real Valkey: nothing lost, nothing doubled, whatever dies when."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from services.trainer import ingest as ingest_module
from services.trainer.ingest import Assembly, Ingest
from services.trainer.settings import TrainerSettings
from shared import keys, shards
from shared.shards import dataset_folder, list_shards, read_part
from shared.status import JobStatus, State
from shared.stream import Entry, TrajectoryStream, connect
from shared.trajectory import Trajectory
from tests.trainer.tiny import make_groups, make_trajectory


@pytest.fixture
async def redis(valkey: str) -> AsyncIterator[Redis]:
    async with connect(valkey) as client:
        yield client


@pytest.fixture
def settings(valkey: str, tmp_path: Path) -> TrainerSettings:
    return TrainerSettings(redis_url=valkey, runs_root=tmp_path, flush_seconds=0.1, redis_patience_s=5)


@pytest.fixture
async def job(redis: Redis) -> AsyncIterator[str]:
    name = f"job-{uuid4().hex[:8]}"
    await redis.zadd(keys.JOBS, {name: 0})
    yield name
    await redis.zrem(keys.JOBS, name)


@contextlib.asynccontextmanager
async def ingesting(redis: Redis, settings: TrainerSettings) -> AsyncIterator[Ingest]:
    ingest = Ingest(redis, settings)
    task = asyncio.create_task(ingest.run())
    try:
        yield ingest
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.02)


def recorded_ids(settings: TrainerSettings, job: str, part: str = "rollout-0") -> list[str]:
    return [one.id for one in read_part(dataset_folder(settings.runs_root, job, part))]


async def read_dead_letters(redis: Redis, job: str) -> list[dict[str, str]]:
    return [fields for _, fields in cast(list[tuple[str, dict[str, str]]], await redis.xrange(keys.dead_letters(job)))]


async def publish(redis: Redis, job: str, trajectories: list[Trajectory]) -> None:
    stream = TrajectoryStream(redis, job)
    for one in trajectories:
        await stream.publish(one, {"trajectories": 1})


async def test_complete_groups_reach_the_dataset_and_then_leave_the_stream(
    redis: Redis, settings: TrainerSettings, job: str
) -> None:
    rows = make_groups(job, groups=5)
    stream = TrajectoryStream(redis, job)
    async with ingesting(redis, settings) as ingest:
        await publish(redis, job, rows[:-1])
        await until(lambda: _equals(stream.backlog(), 3))
        assert len(await ingest.recorded(job, "rollout-0")) == 4, "the incomplete group stays in the stream"
        await publish(redis, job, rows[-1:])
        await until(lambda: _equals(stream.backlog(), 0))
    assert list(read_part(dataset_folder(settings.runs_root, job, "rollout-0"))) == rows


async def _equals(value: Awaitable[int], wanted: int) -> bool:
    return await value == wanted


async def test_evaluations_have_parts_of_their_own(redis: Redis, settings: TrainerSettings, job: str) -> None:
    evaluation = {"phase": "evaluate", "dataset": 1, "stage": 2}
    rows = [one.model_copy(update=evaluation) for one in make_groups(job, groups=1)]
    async with ingesting(redis, settings) as ingest:
        await publish(redis, job, rows)
        await until(lambda: _recorded(ingest, job, "evaluate-2-1", 1))
    assert recorded_ids(settings, job, "evaluate-2-1") == [one.id for one in rows]


async def _recorded(ingest: Ingest, job: str, part: str, wanted: int) -> bool:
    return len(await ingest.recorded(job, part)) == wanted


async def test_a_crash_before_the_shard_loses_nothing(redis: Redis, settings: TrainerSettings, job: str) -> None:
    """Entries that a dead consumer had read and never released come again."""
    rows = make_groups(job, groups=3)
    await publish(redis, job, rows)
    await redis.xgroup_create(keys.trajectories(job), keys.TRAINER_GROUP, id="0")
    assert len(await TrajectoryStream(redis, job).read("dead", 100, 10)) == len(rows)
    async with ingesting(redis, settings) as ingest:
        await until(lambda: _recorded(ingest, job, "rollout-0", 3))
    assert recorded_ids(settings, job) == [one.id for one in rows]


async def test_a_crash_between_shard_and_release_doubles_nothing(
    redis: Redis, settings: TrainerSettings, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_groups(job, groups=3)

    async def die(*_: object) -> None:
        raise asyncio.CancelledError

    await publish(redis, job, rows)
    with monkeypatch.context() as patch:
        patch.setattr(TrajectoryStream, "release", lambda *args: die() if args[1] else asyncio.sleep(0))
        async with ingesting(redis, settings):
            await until(lambda: _has_shard(settings, job))
    stream = TrajectoryStream(redis, job)
    assert await stream.backlog() == len(rows)
    async with ingesting(redis, settings):
        await until(lambda: _equals(stream.backlog(), 0))
    assert recorded_ids(settings, job) == [one.id for one in rows]


async def _has_shard(settings: TrainerSettings, job: str) -> bool:
    return bool(list_shards(dataset_folder(settings.runs_root, job, "rollout-0")))


async def test_a_failing_disk_is_tried_again(
    redis: Redis, settings: TrainerSettings, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_groups(job, groups=2)
    real, failures = ingest_module.write_shard, iter([OSError("no space left on device")])

    def fail_once(folder: Path, trajectories: list[Trajectory]) -> Path:
        for failure in failures:
            raise failure
        return real(folder, trajectories)

    monkeypatch.setattr(ingest_module, "write_shard", fail_once)
    await publish(redis, job, rows)
    async with ingesting(redis, settings):
        await until(lambda: _equals(TrajectoryStream(redis, job).backlog(), 0))
    assert recorded_ids(settings, job) == [one.id for one in rows]


async def test_a_shard_whose_name_is_not_durable_yet_is_neither_written_again_nor_counted_on(
    redis: Redis, settings: TrainerSettings, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync of its folder fails after the rename, and then once more."""
    rows = make_groups(job, groups=2)
    real, failures = shards.sync_folder, iter([OSError("input/output error")] * 2)

    def fail_twice(folder: Path) -> None:
        for failure in failures:
            raise failure
        real(folder)

    monkeypatch.setattr(shards, "sync_folder", fail_twice)
    await publish(redis, job, rows)
    async with ingesting(redis, settings):
        await until(lambda: _equals(TrajectoryStream(redis, job).backlog(), 0))
    assert next(failures, None) is None, "released only once a sync had succeeded"
    assert recorded_ids(settings, job) == [one.id for one in rows]


async def test_outages_with_health_between_them_are_borne_one_by_one(
    redis: Redis, settings: TrainerSettings, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing could be written meanwhile: the only group was incomplete. A patience of 0 s bears one failure."""
    rows = make_groups(job, groups=1)
    real, answers = TrajectoryStream.read, ["fails", "answers", "fails"]

    async def fail_at_times(stream: TrajectoryStream, consumer: str, count: int, block_ms: int) -> list[Entry]:
        if answers and answers.pop(0) == "fails":
            raise RedisConnectionError("gone")
        return await real(stream, consumer, count, block_ms)

    async def all_given() -> bool:
        return not answers

    monkeypatch.setattr(TrajectoryStream, "read", fail_at_times)
    await publish(redis, job, rows[:1])
    async with ingesting(redis, settings.model_copy(update={"redis_patience_s": 0.0})) as ingest:
        await until(all_given)
        await publish(redis, job, rows[1:])
        await until(lambda: _recorded(ingest, job, "rollout-0", 1))


async def _a_group_a_second(assembly: Assembly, job: str, seconds: range) -> None:
    for second in seconds:
        trajectory = make_trajectory(job, group_size=1).model_copy(update={"group": second})
        await assembly.take([Entry(f"{second}-1", trajectory.model_dump_json())])
        await assembly.flush_if_due(second)
        await assembly.flush_if_due(second + 0.5)


async def test_a_slow_job_writes_at_once_at_first_and_ends_in_few_shards(
    redis: Redis, settings: TrainerSettings, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group a second for an hour, by a clock of the test's own."""
    written: list[list[int]] = []

    def write(folder: Path, trajectories: list[Trajectory]) -> Path:
        written.append([one.group for one in trajectories])
        return folder / "shard"

    monkeypatch.setattr(ingest_module, "write_shard", write)
    assembly = Assembly(Ingest(redis, settings), TrajectoryStream(redis, job), job, settings)
    await _a_group_a_second(assembly, job, range(1, 3601))
    assert written[:3] == [[1], [2], [3]]
    assert 500 < len(written) < 1000
    assert len(written[-1]) <= 10, "none waited for more than a 360th of the time that the job had taken"
    await assembly.flush()
    assert [group for shard in written for group in shard] == list(range(1, 3601))


@pytest.mark.parametrize("bound", ["trajectories", "characters"])
async def test_enough_for_a_shard_waits_for_nothing(
    redis: Redis, settings: TrainerSettings, job: str, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    settings = settings.model_copy(update={"flush_seconds": 1000.0})
    if bound == "trajectories":
        settings = settings.model_copy(update={"flush_trajectories": 3})
    else:
        one = make_trajectory(job, group=1, group_size=1).model_dump_json()
        monkeypatch.setattr(ingest_module, "_SHARD_CHARACTERS", 3 * len(one))
    assembly = Assembly(Ingest(redis, settings), TrajectoryStream(redis, job), job, settings)
    await _a_group_a_second(assembly, job, range(1, 9))
    paths = list_shards(dataset_folder(settings.runs_root, job, "rollout-0"))
    assert [shards.groups_of(path) for path in paths] == [[1, 2, 3], [4, 5, 6]]


async def test_duplicates_and_late_siblings_are_released_and_not_written(
    redis: Redis, settings: TrainerSettings, job: str
) -> None:
    rows = make_groups(job, groups=1)
    stream, name = TrajectoryStream(redis, job), keys.trajectories(job)
    async with ingesting(redis, settings) as ingest:
        for _ in range(2):
            await redis.xadd(name, {"trajectory": rows[0].model_dump_json()})
        await publish(redis, job, rows[1:])
        await until(lambda: _recorded(ingest, job, "rollout-0", 1))
        await redis.xadd(name, {"trajectory": rows[2].model_dump_json()})
        await until(lambda: _equals(stream.backlog(), 0))
    assert recorded_ids(settings, job) == [one.id for one in rows]
    assert await redis.xlen(keys.dead_letters(job)) == 0


async def test_what_cannot_be_read_is_buried_with_its_reason(redis: Redis, settings: TrainerSettings, job: str) -> None:
    name = keys.trajectories(job)
    foreign = make_trajectory("someone-else").model_dump_json()
    beyond = make_trajectory(job, k=4, group_size=4).model_dump_json()
    await redis.xadd(name, {"trajectory": "{not json"})
    await redis.xadd(name, {"something": "else"})
    await redis.xadd(name, {"trajectory": foreign})
    await redis.xadd(name, {"trajectory": beyond})
    await redis.xadd(name, {"trajectory": make_trajectory(job, k=0, group_size=4).model_dump_json()})
    await redis.xadd(name, {"trajectory": make_trajectory(job, k=1, group_size=3).model_dump_json()})
    oversized = make_trajectory(job, group=1).model_dump_json().replace('"token_ids":[', '"token_ids":[2147483648,')
    await redis.xadd(name, {"trajectory": oversized})
    await redis.xadd(name, {"trajectory": b'{"job":"\xff"}'})
    async with ingesting(redis, settings):
        await until(lambda: _equals(redis.xlen(keys.dead_letters(job)), 7))
        await until(lambda: _equals(redis.xlen(name), 1))
    buried = await read_dead_letters(redis, job)
    reasons = [
        *("Invalid JSON", "Invalid JSON", "belongs to job 'someone-else'", "k 4 is not below", "its siblings'"),
        *("less than 2147483648", "unable to parse raw data as a unicode string"),
    ]
    for fields, reason in zip(buried, reasons, strict=True):
        assert reason in fields["reason"]
    assert buried[2]["payload"] == foreign
    assert buried[6]["payload"].encode(errors="surrogateescape") == b'{"job":"\xff"}', "the very same bytes"


async def test_an_incomplete_group_is_buried_once_its_job_has_ended(
    redis: Redis, settings: TrainerSettings, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "_LINGER_S", 0.1)
    rows = make_groups(job, groups=2)
    status = JobStatus(id=job, name="x", state=State.CANCELLED, created=0)
    await redis.set(keys.status(job), status.model_dump_json())
    await publish(redis, job, rows[:6])
    async with ingesting(redis, settings):
        await until(lambda: _equals(redis.xlen(keys.dead_letters(job)), 2))
        await until(lambda: _equals(TrajectoryStream(redis, job).backlog(), 0))
    assert recorded_ids(settings, job) == [one.id for one in rows[:4]]
    assert (await read_dead_letters(redis, job))[0]["reason"] == "the job ended with 2 of 4 of group rollout-0:1"
