"""The torchrun worker: waits for tasks and leads them to their end, one after the other.

A task stays pending until its final status is written, so that a crash of anything leads to the same task again.
A failed task is reported and the worker goes on. A rank that dies takes the others with it; torchrun starts them
again, and the training resumes, a limited number of times from the same step. SIGTERM saves the training at hand
and ends each rank with exit code 0; SIGUSR1 writes every thread's stack to stderr.
"""

import faulthandler
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from pyarrow import ArrowException
from redis.exceptions import RedisError

from services.trainer import checkpoint
from services.trainer.checkpoint import stage_folder
from services.trainer.courier import Assignment, Courier
from services.trainer.crew import Crew
from services.trainer.executor import TrainingError
from services.trainer.folder_lock import FolderLock
from services.trainer.metrics import serve_metrics
from services.trainer.orders import End, Idle, Quit
from services.trainer.ranks import join
from services.trainer.settings import TrainerSettings
from services.trainer.supply import Supply
from services.trainer.training import Training
from shared.errors import DriftError, SettingsError, Unavailable
from shared.telemetry import configure_logging, get_logger
from shared.tracing import configure_tracing, job_span
from shared.training import TrainingState, TrainingStatus, TrainingTask

_WAIT_S = 1.0
_LOCK_PATIENCE_S = 60.0

_log = get_logger(__name__)


def main(settings: TrainerSettings) -> None:
    """Entry of every rank."""
    configure_logging("trainer", settings.log_level)
    configure_tracing("trainer")
    stop = threading.Event()
    faulthandler.register(signal.SIGUSR1)
    ranks = join(settings.collective_timeout_s, settings.trainer_threads)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    crew = Crew(ranks, settings)
    try:
        if ranks.rank == 0:
            if settings.trainer_metrics:
                serve_metrics(settings.trainer_metrics)
            with _alone(settings.runs_root, stop), Courier(settings) as courier:
                Leader(crew, courier, settings, stop).run()
        else:
            crew.follow()
    except RuntimeError as error:
        raise ranks.explain(error) from error
    dist.destroy_process_group()


@dataclass(frozen=True)
class _Candidate:
    """A task that is not finished, and its data."""

    assignment: Assignment
    supply: Supply


class Leader:
    """Rank 0: takes tasks in the order of their arrival, the first whose data is there first."""

    def __init__(self, crew: Crew, courier: Courier, settings: TrainerSettings, stop: threading.Event) -> None:
        self._crew = crew
        self._courier = courier
        self._settings = settings
        self._stop = stop
        self._waiting: list[_Candidate] = []

    def run(self) -> None:
        """Serve until told to stop; raises `Unavailable` when Redis or the disk stays away."""
        _log.info("trainer ready", ranks=self._crew.size, runs_root=str(self._settings.runs_root.absolute()))
        try:
            while not self._stop.is_set():
                self._serve()
        except Unavailable:
            self._crew.give(Quit())  # the others leave quietly: what torchrun shows is this rank's error
            raise
        self._crew.give(Quit())

    def _serve(self) -> None:
        self._take_task(_WAIT_S / 5 if self._waiting else _WAIT_S)
        self._drop_hopeless()
        ready = next((candidate for candidate in self._waiting if candidate.supply.ready), None)
        if ready is None:
            self._crew.give(Idle())
        elif self._carry_out(ready):
            self._courier.finish(ready.assignment)
            self._waiting.remove(ready)
        else:
            ready.supply.defer()

    def _take_task(self, wait_s: float) -> None:
        assignment = self._courier.next_task(wait_s)
        if assignment:
            task = assignment.task
            supply = Supply(task, self._courier, self._settings.runs_root, self._settings.data_patience_s)
            self._waiting.append(_Candidate(assignment, supply))
            self._courier.report(task.job, TrainingStatus(state=TrainingState.WAITING, stage=task.stage))

    def _drop_hopeless(self) -> None:
        """End the tasks of cancelled jobs, and those whose data will never come."""
        for candidate in list(self._waiting):
            task = candidate.assignment.task
            failed = TrainingStatus(state=TrainingState.FAILED, stage=task.stage)
            try:
                if not self._courier.is_cancelled(task.job):
                    candidate.supply.check()
                    continue
                checkpoint.prune(stage_folder(self._settings.runs_root, task), 0, task)
                self._courier.report(task.job, failed.model_copy(update={"state": TrainingState.CANCELLED}))
            except TrainingError as error:
                self._report_failure(failed, task, str(error))
            except (OSError, ArrowException) as error:
                self._report_failure(failed, task, f"{candidate.supply.folder} is damaged or out of reach: {error}")
            self._courier.finish(candidate.assignment)
            self._waiting.remove(candidate)

    def _carry_out(self, candidate: _Candidate) -> bool:
        """Whether the task is done, with success or without; False where it goes on later."""

        def another_is_ready() -> bool:
            self._take_task(0.0)
            return any(other.supply.ready for other in self._waiting if other is not candidate)

        task = candidate.assignment.task
        training = Training(
            task, candidate.supply, self._crew, self._courier, self._settings, self._stop, another_is_ready
        )
        try:
            with job_span("training", task.job, stage=task.stage):
                return training.run()
        except (Unavailable, RedisError):
            raise
        except DriftError as error:
            self._report_failure(training.status, task, str(error))
            self._crew.give(End())
            return True
        except Exception as error:
            _log.exception("training broke", job=task.job, stage=task.stage)
            fault = self._crew.explain(error)
            if self._crew.size > 1:  # the other ranks may be anywhere: only a restart brings them together
                training.note_fault(fault)
                raise
            self._report_failure(training.status, task, f"{fault} See the trainer's log.")
            self._crew.give(End())
            return True

    def _report_failure(self, status: TrainingStatus, task: TrainingTask, error: str) -> None:
        _log.error("training failed", job=task.job, stage=task.stage, error=error)
        self._courier.report(task.job, status.model_copy(update={"state": TrainingState.FAILED, "error": error}))


@contextmanager
def _alone(runs_root: Path, stop: threading.Event) -> Iterator[None]:
    """Hold the folder of runs: two trainers of one job would write the same checkpoints."""
    lock = FolderLock(runs_root / ".trainer.lock")
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while not lock.take():
        if stop.wait(0.5) or time.monotonic() > deadline:
            raise SettingsError(
                f"Another trainer works in {runs_root.absolute()}.",
                remedy="Stop it, or give this one another DRIFT_RUNS_ROOT.",
            )
    try:
        yield
    finally:
        lock.release()
