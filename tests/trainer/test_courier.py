"""Promises of the courier: every unfinished task is handed out once, whatever became of the trainer before."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from services.trainer.courier import Assignment, Courier
from services.trainer.settings import TrainerSettings
from shared import keys
from shared.returns import ReturnSpec
from shared.training import TrainingTask, TrainSpec
from tests.conftest import serve_valkey

JOBS = ["first", "second", "third"]
TASK = TrainingTask(
    job="job", stage=0, model="m", tokenizer="m", groups=1, group_size=1, train=TrainSpec(), returns=ReturnSpec()
)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[TrainerSettings]:
    with serve_valkey() as url:
        redis = Redis.from_url(url)
        for job in JOBS:
            redis.xadd(keys.TRAININGS, {"task": TASK.model_copy(update={"job": job}).model_dump_json()})
        yield TrainerSettings(redis_url=url, runs_root=tmp_path)


def take(courier: Courier) -> list[Assignment]:
    return [one for one in (courier.next_task(0.05) for _ in range(6)) if one]


def jobs(taken: list[Assignment]) -> list[str]:
    return [one.task.job for one in taken]


def test_after_a_crash_each_unfinished_task_is_handed_out_once(settings: TrainerSettings) -> None:
    with Courier(settings) as courier:
        taken = take(courier)
        assert jobs(taken) == JOBS
        courier.finish(taken[0])
    with Courier(settings) as courier:
        assert jobs(take(courier)) == JOBS[1:], "all that were left, and none of them twice"


def test_a_task_whose_answer_was_lost_on_the_way_from_redis_is_handed_out_even_so(settings: TrainerSettings) -> None:
    with Courier(settings) as courier:
        assert jobs(take(courier)) == JOBS
        redis = Redis.from_url(settings.redis_url)
        lost = TASK.model_copy(update={"job": "lost"})
        redis.xadd(keys.TRAININGS, {"task": lost.model_dump_json()})
        redis.xreadgroup(keys.TRAINER_GROUP, "trainer", {keys.TRAININGS: ">"})
        assert jobs(take(courier)) == ["lost"]
