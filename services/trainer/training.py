"""One training, as rank 0 leads it: plan, resume, steps, checkpoints, export, and a status after every step.

Killed at any moment and started again, it goes on from the last checkpoint and ends, on a CPU, with the weights
of an undisturbed run bit for bit: the plan is a function of dataset and task, and the dtype is chosen once.
"""

import math
import time
from collections.abc import Callable

from services.trainer import checkpoint
from services.trainer.checkpoint import Cursor, stage_folder, step_folder
from services.trainer.courier import Courier
from services.trainer.crew import Crew
from services.trainer.executor import StepResult, TrainingError
from services.trainer.orders import Begin, Dtype, End, Export, Save, Step
from services.trainer.plan import Plan, make_plan, split_batch
from services.trainer.settings import TrainerSettings
from shared.job import TrainingState, TrainingStatus, TrainingTask, TrainSpec
from shared.schema import Schema
from shared.shards import dataset_folder, read_part
from shared.telemetry import get_logger
from shared.trajectory import part_name

_log = get_logger(__name__)


class Attempt(Schema):
    """What the restarts of one training know of each other, `attempt.json` in its folder."""

    task: TrainingTask
    dtype: Dtype | None
    """Chosen before the first step and kept, so that a resumed run computes as the first one did."""
    step: int
    """The step that the last attempt began from."""
    count: int
    """Attempts in a row from that step."""
    fault: str | None = None
    """What ended the last attempt, where rank 0 lived to write it."""


class Training:
    """Leads one training to its end: `run` returns True, or False where it was asked to stop before."""

    def __init__(
        self, task: TrainingTask, crew: Crew, courier: Courier, settings: TrainerSettings, stopping: Callable[[], bool]
    ) -> None:
        self._task = task
        self._crew = crew
        self._courier = courier
        self._settings = settings
        self._stopping = stopping
        self._stage = stage_folder(settings.runs_root, self._task)
        self._losses: list[float] = []
        self._step = 0
        self._saved = time.monotonic()
        self.status = TrainingStatus(state=TrainingState.RUNNING, stage=self._task.stage)
        """The last reported status."""

    def run(self) -> bool:
        """Train and export. Raises `TrainingError` where the training cannot succeed; its message is the user's."""
        task = self._task
        latest = checkpoint.find_latest(self._stage, task)
        if latest:
            self._step, self._losses = latest[1].step, list(latest[1].losses)
        attempt = self._count_attempt()
        plan = self._make_plan()
        self._report(
            trajectories=len(plan.population.members), step=self._step, steps=plan.steps, losses=list(self._losses)
        )
        restored = str(latest[0]) if latest else None
        dtype = self._crew.begin(Begin(task=task, dtype=self._dtype(attempt), checkpoint=restored))
        self._write_attempt(attempt.model_copy(update={"dtype": dtype}))
        _log.info("training", job=task.job, stage=task.stage, step=self._step, steps=plan.steps, dtype=dtype)
        while self._step < plan.steps:
            if self._courier.is_cancelled(task.job):
                self._crew.give(End())
                self._report(state=TrainingState.CANCELLED)
                return True
            if self._stopping():
                self._save(dtype)
                return False
            self._take_step(plan)
            if self._step < plan.steps and time.monotonic() - self._saved >= self._settings.checkpoint_seconds:
                self._save(dtype)
        folder = self._stage / "export"
        self._crew.give(Export(folder=str(folder)))
        self._crew.give(End())
        self._report(state=TrainingState.SUCCEEDED, checkpoint=str(folder))
        return True

    def note_fault(self, fault: str) -> None:
        """Leave word for the next attempt."""
        attempt = Attempt.model_validate_json((self._stage / "attempt.json").read_bytes())
        self._write_attempt(attempt.model_copy(update={"fault": fault}))

    def _make_plan(self) -> Plan:
        task = self._task
        folder = dataset_folder(self._settings.runs_root, task.job, part_name("rollout", task.stage))
        plan = make_plan(read_part(folder), task.returns, task.train)
        population = plan.population
        self.status = self.status.model_copy(
            update={
                "skipped": population.skipped,
                "skipped_mass": population.skipped_mass,
                "skipped_token_share": population.skipped_token_share,
                "truncated": population.truncated,
                "too_long": population.too_long,
                "effective_sample_size": population.effective_sample_size,
                "composition": population.composition,
                "held_out_groups": population.held_out_groups,
            }
        )
        return plan

    def _take_step(self, plan: Plan) -> None:
        step = self._step + 1
        shares = split_batch(plan.batch(self._step), self._crew.size, self._settings.micro_batch_tokens)
        learning_rate = schedule(step, plan.steps, self._task.train)
        result = self._crew.step(Step(step=step, learning_rate=learning_rate, shares=shares))
        self._check(step, result)
        self._step = step
        self._losses.append(result.loss)
        self._report(
            step=step,
            loss=result.loss,
            grad_norm=result.grad_norm,
            learning_rate=learning_rate,
            tokens_per_s=result.tokens / result.seconds,
            losses=list(self._losses),
        )

    def _check(self, step: int, result: StepResult) -> None:
        if result.suspects:
            raise TrainingError(
                f"Step {step} is not finite (loss {result.loss}, gradient norm {result.grad_norm}); "
                f"look at trajectories {', '.join(result.suspects)}.",
                remedy=f"Lower the learning rate or remove them; the last good state is under {self._stage}.",
            )

    def _save(self, dtype: Dtype) -> None:
        cursor = Cursor(task=self._task, dtype=dtype, step=self._step, losses=list(self._losses))
        folder = step_folder(self._stage, self._step)
        self._crew.give(Save(folder=str(folder), cursor=cursor.model_dump_json()))
        checkpoint.prune(self._stage, self._settings.checkpoints_kept, self._task)
        self._saved = time.monotonic()

    def _report(self, **changes: object) -> None:
        self.status = self.status.model_copy(update=changes)
        self._courier.report(self._task.job, self.status)

    def _count_attempt(self) -> Attempt:
        """Record that this attempt begins; raises `TrainingError` when too many began from the same step."""
        path = self._stage / "attempt.json"
        last = Attempt.model_validate_json(path.read_bytes()) if path.exists() else None
        if last is None or last.task != self._task:
            last = Attempt(task=self._task, dtype=None, step=self._step, count=0)
        count = last.count + 1 if last.step == self._step else 1
        if count > self._settings.training_attempts:
            raise TrainingError(
                f"The trainer has died {last.count} times while training from step {self._step}; "
                f"last fault seen: {last.fault or 'none, it was killed'}.",
                remedy="See the trainer's log (memory is the most common cause), then submit the job again.",
            )
        attempt = last.model_copy(update={"step": self._step, "count": count})
        self._write_attempt(attempt)
        return attempt

    def _dtype(self, attempt: Attempt) -> Dtype | None:
        """The dtype to compute in: the first attempt's, the setting's, or None to measure."""
        setting = self._settings.trainer_dtype
        return attempt.dtype or (None if setting == "auto" else setting)

    def _write_attempt(self, attempt: Attempt) -> None:
        self._stage.mkdir(parents=True, exist_ok=True)
        temporary = self._stage / "attempt.json.tmp"
        checkpoint.write_durably(temporary, attempt.model_dump_json())
        temporary.rename(self._stage / "attempt.json")


def schedule(step: int, steps: int, spec: TrainSpec) -> float:
    """Learning rate of a step (counted from 1): linear warm-up, then constant (paper D.2)."""
    warmup = math.ceil(spec.warmup_ratio * steps)
    return spec.learning_rate * min(1.0, step / warmup) if warmup else spec.learning_rate
