"""Promises of what restarts know of each other: neither a damaged note nor a full disk fails a training."""

import errno
from pathlib import Path

import pytest

from services.trainer import attempt
from services.trainer.attempt import Attempt, read_attempt, write_attempt
from shared.errors import Unavailable
from shared.returns import ReturnSpec
from shared.training import TrainingTask, TrainSpec

TASK = TrainingTask(
    job="job", stage=0, model="m", tokenizer="m", groups=6, group_size=4, train=TrainSpec(), returns=ReturnSpec()
)


def test_the_last_attempt_at_this_very_task_is_known(tmp_path: Path) -> None:
    write_attempt(tmp_path / "stage-0", Attempt(task=TASK).begin(3))
    last = read_attempt(tmp_path / "stage-0", TASK)
    assert (last.step, last.count) == (3, 1) and last.begin(3).count == 2 and last.begin(4).count == 1
    other = TASK.model_copy(update={"stage": 1})
    assert read_attempt(tmp_path / "stage-0", other) == Attempt(task=other)


def test_a_note_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "attempt.json").write_bytes(b'{"task": \x00')
    assert read_attempt(tmp_path, TASK) == Attempt(task=TASK)


def test_a_full_disk_ends_the_trainer_and_not_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(attempt, "write_durably", fail)
    with pytest.raises(Unavailable, match=r"No space left.*start the trainer again"):
        write_attempt(tmp_path, Attempt(task=TASK))
