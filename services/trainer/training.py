"""One training, as rank 0 leads it: plan, resume, steps, checkpoints, export, and a status after every step.

Killed at any moment and started again, it goes on from the last checkpoint and ends, on a CPU, with the weights
of an undisturbed run bit for bit: the plan is a function of dataset and task, and the dtype is chosen once.
"""

import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from services.trainer import checkpoint
from services.trainer.adapter import base_of
from services.trainer.attempt import read_attempt, write_attempt
from services.trainer.card import write_card
from services.trainer.checkpoint import Cursor, stage_folder, step_folder
from services.trainer.courier import Courier
from services.trainer.crew import Crew
from services.trainer.executor import StepResult, TrainingError
from services.trainer.orders import Begin, End, Export, Idle, Measure, Save, Step
from services.trainer.packing import split_batch
from services.trainer.plan import Plan, make_plan
from services.trainer.population import Population
from services.trainer.settings import TrainerSettings
from services.trainer.supply import Supply
from services.trainer.watchers import StepRecord, Watchers, watch
from services.trainer.weights import identify
from shared.errors import Unavailable
from shared.shards import read_part
from shared.telemetry import get_logger
from shared.tracing import span
from shared.training import TrainingState, TrainingStatus, TrainingTask, TrainSpec

_DATA_POLL_S = 0.5
_NORMS_SEEN = 32
_NORMS_NEEDED = 8
"""Gradient norms of the first steps say little of what is usual."""

_log = get_logger(__name__)


class Training:
    """Leads one training to its end: `run` returns True, or False where it was asked to stop before."""

    def __init__(
        self,
        task: TrainingTask,
        supply: Supply,
        crew: Crew,
        courier: Courier,
        settings: TrainerSettings,
        stop: threading.Event,
        yielding: Callable[[], bool],
    ) -> None:
        """`stop` ends it early; where it lacks data, it also ends early if `yielding` says that another could train."""
        self._task = task
        self._supply = supply
        self._crew = crew
        self._courier = courier
        self._settings = settings
        self._stop = stop
        self._yielding = yielding
        self._stage = stage_folder(settings.runs_root, self._task)
        self._attempt = read_attempt(self._stage, task)
        self._plan = Plan(Population(task.returns, task.train), task.train, closed=False)
        self._shards: set[Path] = set()
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._step = 0
        self._saved_step = 0
        self._base: str | None = None
        self._saved = time.monotonic()
        self.status = TrainingStatus(state=TrainingState.RUNNING, stage=self._task.stage)
        """The last reported status."""

    def run(self) -> bool:
        """Train and export. Raises `TrainingError` where the training cannot succeed; its message is the user's."""
        task = self._task
        if self._attempt.outcome:  # a crash came before the task was taken off its stream
            return self._succeed(self._attempt.outcome)
        latest = checkpoint.find_latest(self._stage, task)
        if latest:
            cursor = latest[1]
            self._step = self._saved_step = cursor.step
            self._losses, self._norms = list(cursor.losses), list(cursor.grad_norms)
            self.status = self.status.model_copy(update={"held_out_losses": cursor.held_out_losses})
        self._begin_attempt()
        self._grow_plan()
        plan = self._plan
        self._report(step=self._step, losses=list(self._losses))
        setting = self._settings.trainer_dtype
        dtype = self._attempt.dtype or (None if setting == "auto" else setting)
        restored = str(latest[0]) if latest else None
        dtype = self._crew.begin(
            Begin(
                task=task,
                dtype=dtype,
                checkpoint=restored,
                micro_batch_tokens=self._settings.micro_batch_tokens,
                compile=self._settings.trainer_compile,
            )
        )
        self._note(dtype=dtype)
        self._base = identify(base_of(task.model)) if task.train.lora else None
        if latest and latest[1].base != self._base:
            raise TrainingError(
                f"The checkpoint {latest[0]} holds an adapter of other weights than {base_of(task.model)} has now.",
                remedy="Bring the old weights back, or submit the job anew.",
            )
        _log.info("training", job=task.job, stage=task.stage, step=self._step, steps=plan.steps, dtype=dtype)
        watchers = watch(task, self._stage, self._step)
        try:
            return self._train(watchers)
        finally:
            watchers.close()

    def note_fault(self, fault: str) -> None:
        """Leave word for the next attempt."""
        self._note(fault=fault)

    def _train(self, watchers: Watchers) -> bool:
        task = self._task
        while self._step < self._plan.steps:
            if self._courier.is_cancelled(task.job):
                self._crew.give(End())
                checkpoint.prune(self._stage, 0, task)
                self._report(state=TrainingState.CANCELLED)
                return True
            lacking = not self._plan.has(self._step)
            if self._stop.is_set() or (lacking and self._yielding()):
                self._pause()
                return False
            if lacking:
                self._wait_for_data()
                continue
            self._measure(self._plan)
            with span("step", step=self._step):
                self._take_step(watchers)
            if self._step < self._plan.steps and time.monotonic() - self._saved >= self._settings.checkpoint_seconds:
                self._save()
        self._measure(self._plan)
        folder = self._stage / "export"
        self._crew.give(Export(folder=str(folder), card=write_card(task, self.status)))
        if self._settings.keep_training_state:
            self._save_now()
        self._crew.give(End())
        return self._succeed(
            self.status.model_copy(update={"state": TrainingState.SUCCEEDED, "checkpoint": str(folder)})
        )

    def _grow_plan(self) -> None:
        """Add what has been recorded meanwhile; what is not streamed begins with all of its data."""
        if not self._task.train.streaming:
            self._plan = make_plan(read_part(self._supply.folder), self._task.returns, self._task.train)
        else:
            complete = self._supply.complete  # asked first: what is recorded while the shards are read comes next time
            for group in self._supply.pull(self._shards):
                self._plan.population.add(group)
            if complete:
                self._plan.population.check()
                self._plan.closed = True
        population = self._plan.population
        self.status = self.status.model_copy(
            update={
                "trajectories": len(population.members),
                "steps": self._plan.steps,
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

    def _wait_for_data(self) -> None:
        """One look for new shards; raises `TrainingError` when no more will come."""
        self._supply.check()
        self._grow_plan()
        if not self._plan.has(self._step):
            message = f"waits for trajectories: {self._supply.recorded} of {self._task.groups} groups are recorded"
            if message != self.status.message:
                self._report(message=message)
            self._crew.give(Idle())
            self._stop.wait(_DATA_POLL_S)

    def _take_step(self, watchers: Watchers) -> None:
        step, plan = self._step + 1, self._plan
        batch = plan.batch(self._step)
        shares = split_batch(batch, self._crew.size, self._settings.micro_batch_tokens, self._crew.packs)
        learning_rate = schedule(step, plan.steps, self._task.train)
        limit = limit_norm(self._norms, self._task.train)
        result = self._crew.step(Step(step=step, learning_rate=learning_rate, shares=shares, norm_limit=limit))
        if result.suspects:
            self._save_now()
            raise _explain(step, result, limit, str(self._stage))
        self._step = step
        self._losses.append(result.loss)
        self._norms.append(result.grad_norm)
        record = StepRecord(
            time=time.time(),
            step=step,
            steps=plan.steps,
            loss=result.loss,
            nll=result.nll,
            grad_norm=result.grad_norm,
            learning_rate=learning_rate,
            tokens=result.tokens,
            seconds=result.seconds,
            tokens_per_s=result.tokens / result.seconds,
            mfu=self._crew.utilisation(batch, result.seconds),
            skipped_mass=plan.population.skipped_mass,
            effective_sample_size=plan.population.effective_sample_size,
        )
        watchers.record(record)
        shown = {"step", "loss", "nll", "grad_norm", "learning_rate", "tokens_per_s", "mfu"}
        self._report(
            **record.model_dump(include=shown),
            losses=list(self._losses),
            message=None,
            checkpoint_fault=self._crew.checkpoint_fault,
        )

    def _measure(self, plan: Plan) -> None:
        """The held-out groups' weighted loss, where it is due and not known from before a restart."""
        held_out, done = plan.held_out(), self.status.held_out_losses
        due = self._step % self._task.train.held_out_every == 0 or self._step == plan.steps
        if not held_out or not due or (done and done[-1][0] == self._step):
            return
        shares = split_batch(held_out, self._crew.size, self._settings.micro_batch_tokens, self._crew.packs)
        self._report(held_out_losses=[*done, (self._step, self._crew.measure(Measure(shares=shares)))])

    def _pause(self) -> None:
        """Save and let go: the task stays pending, and the next attempt is as good as the first."""
        self._save_now()
        self._crew.give(End())
        self._note(count=0)
        if self._crew.checkpoint_fault:
            raise Unavailable(
                f"No checkpoint could be written at step {self._step}: {self._crew.checkpoint_fault}.",
                remedy="The training goes on from the one before when the trainer is started again.",
            )

    def _save_now(self) -> None:
        """A durable checkpoint of the state as it is, unless there is one or nothing has been trained yet."""
        if self._step > self._saved_step or self._crew.checkpoint_fault:
            self._save(wait=True)

    def _save(self, *, wait: bool = False) -> None:
        """Begin to write a checkpoint; the training goes on unless told to wait."""
        assert self._attempt.dtype
        cursor = Cursor(
            task=self._task,
            dtype=self._attempt.dtype,
            step=self._step,
            losses=list(self._losses),
            grad_norms=list(self._norms),
            held_out_losses=self.status.held_out_losses,
            base=self._base,
        )
        folder = step_folder(self._stage, self._step)
        self._crew.give(Save(folder=str(folder), cursor=cursor.model_dump_json(), wait=wait))
        self._saved_step, self._saved = self._step, time.monotonic()

    def _succeed(self, outcome: TrainingStatus) -> bool:
        """The export is all that is needed from now on."""
        self._note(outcome=outcome)
        checkpoint.prune(self._stage, 1 if self._settings.keep_training_state else 0, self._task)
        self.status = outcome
        self._report()
        return True

    def _report(self, **changes: object) -> None:
        self.status = self.status.model_copy(update=changes)
        self._courier.report(self._task.job, self.status)

    def _begin_attempt(self) -> None:
        """Record that this attempt begins; raises `TrainingError` when too many began from the same step."""
        last = self._attempt
        attempt = last.begin(self._step)
        if attempt.count > self._settings.training_attempts:
            raise TrainingError(
                f"The trainer has died {last.count} times while training from step {self._step}; "
                f"last fault seen: {last.fault or 'none, it was killed'}.",
                remedy="See the trainer's log (memory is the most common cause), then submit the job again.",
            )
        self._attempt = attempt
        self._note()

    def _note(self, **changes: object) -> None:
        self._attempt = self._attempt.model_copy(update=changes)
        write_attempt(self._stage, self._attempt)


def schedule(step: int, steps: int, spec: TrainSpec) -> float:
    """Learning rate of a step (counted from 1): linear warm-up, then constant (paper D.2)."""
    warmup = math.ceil(spec.warmup_ratio * steps)
    return spec.learning_rate * min(1.0, step / warmup) if warmup else spec.learning_rate


def limit_norm(norms: Sequence[float], spec: TrainSpec) -> float | None:
    """The gradient norm beyond which the next step counts as exploded, from the norms of the steps before."""
    if spec.explosion_factor is None or len(norms) < _NORMS_NEEDED:
        return None
    return max(spec.max_grad_norm, spec.explosion_factor * statistics.median(norms[-_NORMS_SEEN:]))


def _explain(step: int, result: StepResult, limit: float | None, stage: str) -> TrainingError:
    if result.finite:
        what = f"The gradient norm exploded at step {step}: {result.grad_norm:.4g}, the limit was {limit:.4g}"
    else:
        what = f"Step {step} is not finite (loss {result.loss}, gradient norm {result.grad_norm})"
    return TrainingError(
        f"{what}; look at trajectories {', '.join(result.suspects)}.",
        remedy=f"Lower the learning rate or remove them (a limit that is too strict is `train.explosion_factor`); "
        f"the last good state is under {stage}.",
    )
