"""Promises of a training's data: when there is enough to begin, and a clear end when the rest will never come."""

from pathlib import Path
from typing import cast

import pytest

from services.trainer.courier import Courier
from services.trainer.executor import TrainingError
from services.trainer.supply import Supply
from shared.returns import ReturnSpec
from shared.shards import dataset_folder, write_shard
from shared.training import TrainingTask, TrainSpec
from tests.trainer.tiny import make_groups

ROWS = make_groups(groups=12)


class Rollout:
    """What the courier says of the job."""

    rolled_out = 0
    ended = False

    def published(self, job: str, part: str) -> int:
        return self.rolled_out

    def has_ended(self, job: str) -> bool:
        return self.ended


def supply(root: Path, rollout: Rollout, *, streaming: bool = False, patience_s: float = 3600) -> Supply:
    task = TrainingTask(
        job="job", stage=0, model="m", tokenizer="m", groups=12, group_size=4, returns=ReturnSpec(),
        train=TrainSpec(steps=9, batch_size=4, streaming=streaming),
    )  # fmt: skip
    return Supply(task, cast(Courier, rollout), root, patience_s)


def write(root: Path, begin: int, end: int) -> None:
    write_shard(dataset_folder(root, "job", "rollout-0"), ROWS[begin * 4 : end * 4])


def test_a_training_waits_for_all_its_data_and_a_streamed_one_for_a_block(tmp_path: Path) -> None:
    whole, streamed = supply(tmp_path, Rollout()), supply(tmp_path, Rollout(), streaming=True)
    write(tmp_path, 0, 3)
    assert not whole.ready and not streamed.ready, "a block is four batches of four, that is four groups"
    write(tmp_path, 3, 4)
    assert not whole.ready and streamed.ready
    streamed.defer()
    assert not streamed.ready
    write(tmp_path, 4, 12)
    assert whole.ready and whole.complete and streamed.ready


def test_each_group_is_pulled_once_in_the_order_of_recording(tmp_path: Path) -> None:
    data, known = supply(tmp_path, Rollout(), streaming=True), set[Path]()
    write(tmp_path, 6, 9)
    assert [group[0].group for group in data.pull(known)] == [6, 7, 8]
    write(tmp_path, 0, 2)
    assert list(data.pull(known)) == [ROWS[0:4], ROWS[4:8]]
    assert list(data.pull(known)) == []


def test_groups_that_stay_missing_after_their_rollout_end_the_training_clearly(tmp_path: Path) -> None:
    rollout = Rollout()
    data, patient = supply(tmp_path, rollout, patience_s=0), supply(tmp_path, rollout)
    write(tmp_path, 0, 11)
    rollout.rolled_out = 47
    data.check()
    data.check()  # however long the rollout takes
    rollout.rolled_out = 48
    patient.check()
    with pytest.raises(TrainingError, match=r"1 groups of rollout-0 .* never completed .*: 11\. .*dead letters"):
        data.check()
    write(tmp_path, 11, 12)
    data.check()


def test_a_job_that_has_ended_sends_no_more_data(tmp_path: Path) -> None:
    rollout = Rollout()
    data = supply(tmp_path, rollout)
    rollout.ended = True
    with pytest.raises(TrainingError, match="Job job has ended with 0 of 12 groups recorded"):
        data.check()
