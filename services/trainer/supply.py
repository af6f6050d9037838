"""The data of one training: how much of it is recorded, what is new, and whether the rest will come."""

import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from services.trainer.courier import Courier
from services.trainer.executor import TrainingError
from services.trainer.plan import BLOCK_BATCHES
from shared.shards import Ledger, dataset_folder, list_shards, read_shard
from shared.training import TrainingTask
from shared.trajectory import Trajectory, part_name

_NAMED = 5


class Supply:
    """The shards of one task's rollout, as they appear."""

    def __init__(self, task: TrainingTask, courier: Courier, runs_root: Path, patience_s: float) -> None:
        self._task = task
        self._courier = courier
        self._patience_s = patience_s
        self._part = part_name("rollout", task.stage)
        self._folder = dataset_folder(runs_root, task.source, self._part)
        self._ledger = Ledger(self._folder)
        self._grew = (0, time.monotonic())
        block = BLOCK_BATCHES * task.train.batch_size
        self._portion = -(-block // task.group_size) if task.train.streaming else task.groups
        self._wanted = self._portion

    @property
    def folder(self) -> Path:
        """The dataset's part."""
        return self._folder

    @property
    def recorded(self) -> int:
        """Groups in the dataset."""
        return len(self._ledger.groups())

    @property
    def complete(self) -> bool:
        """Whether all data is there."""
        return self.recorded >= self._task.groups

    @property
    def ready(self) -> bool:
        """Whether to begin, or to go on after `defer`: all data is there, or at least a block where it is streamed."""
        return self.recorded >= min(self._wanted, self._task.groups)

    def defer(self) -> None:
        """Be ready again when another block is there."""
        self._wanted = self.recorded + self._portion

    def pull(self, known: set[Path]) -> Iterator[list[Trajectory]]:
        """The groups of shards that are not known yet, in the order of their recording; makes them known."""
        for path in list_shards(self._folder):
            if path not in known:
                known.add(path)
                for _, group in groupby(read_shard(path), lambda trajectory: trajectory.group):
                    yield list(group)

    def check(self) -> None:
        """Raises `TrainingError` when the job has ended, or its rollout has and groups stay missing beyond patience."""
        job, recorded = self._task.job, self.recorded
        if self.complete:
            return
        if self._courier.has_ended(job):
            raise TrainingError(f"Job {job} has ended with {recorded} of {self._task.groups} groups recorded.")
        total = self._task.groups * self._task.group_size
        if recorded > self._grew[0] or self._courier.published(self._task.source, self._part) < total:
            self._grew = (recorded, time.monotonic())
        elif time.monotonic() - self._grew[1] > self._patience_s:
            missing = sorted(set(range(self._task.groups)) - self._ledger.groups())
            named = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
            raise TrainingError(
                f"{len(missing)} groups of {self._part} were rolled out and never completed in the dataset: {named}.",
                remedy="The job's dead letters say what was wrong with their trajectories; submit the job again.",
            )
