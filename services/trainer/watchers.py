"""Who watches a training besides its status in Redis and `/metrics`: JSON lines, TensorBoard, Weights & Biases.

A watcher that fails is dropped with a word in the log; it never stops a training. All of them are told
where a resumed training goes on, so that each step is on record once.
"""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError
from tensorboardX import SummaryWriter

from services.trainer.checkpoint import write_durably
from shared.schema import Schema
from shared.telemetry import get_logger
from shared.training import TrainingTask

_log = get_logger(__name__)


class StepRecord(Schema):
    """One optimiser step."""

    time: float
    """Unix time, seconds."""
    step: int
    """Counts from 1."""
    steps: int
    loss: float
    """The weighted loss that is minimised (paper eqs. 14, 15)."""
    nll: float
    """Mean -log p of the supervised tokens, whatever their weight."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    tokens: int
    """Trained tokens, context and response."""
    seconds: float
    tokens_per_s: float
    mfu: float
    """Model FLOPs utilisation; see `flops`."""
    skipped_mass: float
    effective_sample_size: float | None
    """Mean over the groups seen so far."""

    def measures(self) -> dict[str, float]:
        """What is worth a curve."""
        values = self.model_dump(exclude={"time", "step", "steps"}, exclude_none=True)
        return {name: float(value) for name, value in values.items()}


class Watcher(Protocol):
    """Is told of every step."""

    def record(self, record: StepRecord) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`train.jsonl`: a `StepRecord` a line, whole lines only."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in path.read_text().splitlines() if _is_before(line, step)] if path.exists() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        write_durably(temporary, "".join(f"{line}\n" for line in kept))
        temporary.rename(path)
        self._file = path.open("a", buffering=1)

    def record(self, record: StepRecord) -> None:
        self._file.write(record.model_dump_json() + "\n")

    def close(self) -> None:
        self._file.close()


def _is_before(line: str, step: int) -> bool:
    """Whether a line of an earlier attempt stays; one cut short by a crash does not."""
    try:
        return StepRecord.model_validate_json(line).step <= step
    except ValidationError:
        return False


class TensorBoard:
    """Event files: `tensorboard --logdir RUNS_ROOT` shows all trainings."""

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=10, filename_suffix=f".{step}")

    def record(self, record: StepRecord) -> None:
        for name, value in record.measures().items():
            self._writer.add_scalar(f"train/{name}", value, record.step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of project `drift`, or of WANDB_PROJECT; resumed under the same id."""

    def __init__(self, task: TrainingTask, folder: Path) -> None:
        import wandb  # pyright: ignore[reportMissingImports] - not a dependency: whoever has a key has it

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "drift"),
            id=f"{task.job}-{task.stage}",
            name=f"{task.job} stage {task.stage}",
            config=task.model_dump(mode="json"),
            dir=str(folder),
            resume="allow",
            settings=wandb.Settings(init_timeout=30),
        )

    def record(self, record: StepRecord) -> None:
        self._run.log(record.measures(), step=record.step)

    def close(self) -> None:
        self._run.finish()


class Watchers:
    """All that watch one training."""

    def __init__(self, makers: Sequence[Callable[[], Watcher]]) -> None:
        self._watchers: list[Watcher] = []
        for make in makers:
            self._guard("open", lambda make=make: self._watchers.append(make()))

    def record(self, record: StepRecord) -> None:
        """Tell all; those that fail hear no more."""
        self._watchers = [one for one in self._watchers if self._guard("record", lambda one=one: one.record(record))]

    def close(self) -> None:
        """No more steps, for now or for ever."""
        for watcher in self._watchers:
            self._guard("close", watcher.close)
        self._watchers = []

    def _guard(self, what: str, act: Callable[[], object]) -> bool:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever a sink does, the training goes on
            _log.warning("watcher dropped", failed_to=what, error=f"{type(error).__name__}: {error}")
            return False
        return True


def watch(task: TrainingTask, stage: Path, step: int) -> Watchers:
    """Watchers of a training that goes on after `step` steps; their files are in its folder."""
    makers: list[Callable[[], Watcher]] = [
        lambda: JsonLines(stage / "train.jsonl", step),
        lambda: TensorBoard(stage / "tensorboard", step),
    ]
    if os.environ.get("WANDB_API_KEY"):
        if find_spec("wandb"):
            makers.append(lambda: WeightsAndBiases(task, stage))
        else:
            _log.warning("WANDB_API_KEY is set, but wandb is not installed: pip install wandb")
    return Watchers(makers)
