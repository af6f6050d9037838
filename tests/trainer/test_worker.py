"""Promises of rank 0's queue: what is wrong with one task ends that task and no other, and nothing is left of it."""

import threading
from pathlib import Path
from typing import cast

from services.trainer.checkpoint import stage_folder
from services.trainer.courier import Assignment, Courier
from services.trainer.crew import Crew
from services.trainer.settings import TrainerSettings
from services.trainer.worker import Leader
from shared.returns import ReturnSpec
from shared.shards import dataset_folder
from shared.training import TrainingState, TrainingStatus, TrainingTask, TrainSpec

TASK = TrainingTask(
    job="job", stage=0, model="m", tokenizer="m", groups=6, group_size=4, train=TrainSpec(), returns=ReturnSpec()
)


class Alone:
    """A crew and a courier with one task, which stop the leader once it is finished."""

    size = 1

    def __init__(self, *, cancelled: bool = False) -> None:
        self.cancelled = cancelled
        self.stop = threading.Event()
        self.reported: list[TrainingStatus] = []

    def give(self, order: object) -> None: ...

    def next_task(self, wait_s: float) -> Assignment | None:
        return None if self.reported else Assignment("1-0", TASK)

    def is_cancelled(self, job: str) -> bool:
        return self.cancelled

    def has_ended(self, job: str) -> bool:
        return False

    def published(self, job: str, part: str) -> int:
        return 0

    def report(self, job: str, status: TrainingStatus) -> None:
        self.reported.append(status)

    def finish(self, assignment: Assignment) -> None:
        self.stop.set()

    def lead(self, runs_root: Path) -> TrainingStatus:
        """The task's last status."""
        settings = TrainerSettings(runs_root=runs_root)
        Leader(cast(Crew, self), cast(Courier, self), settings, self.stop).run()
        return self.reported[-1]


def test_a_damaged_dataset_fails_its_own_training_and_is_named(tmp_path: Path) -> None:
    folder = dataset_folder(tmp_path, "job", "rollout-0")
    folder.mkdir(parents=True)
    (folder / "shard-000000.parquet").write_bytes(b"PAR1 and what a broken disk gives PAR1")
    status = Alone().lead(tmp_path)
    assert status.state is TrainingState.FAILED and status.error and str(folder) in status.error


def test_of_a_training_that_is_cancelled_while_it_waits_no_checkpoint_is_left(tmp_path: Path) -> None:
    stage = stage_folder(tmp_path, TASK)
    (stage / "step-000004").mkdir(parents=True)
    assert Alone(cancelled=True).lead(tmp_path).state is TrainingState.CANCELLED
    assert not list(stage.glob("step-*"))
