"""Checkpoints: model, optimiser and cursor as one atomic unit, `checkpoints/stage-S/step-NNNNNN/`.

A checkpoint is a whole folder or no folder: it is written beside its place, synced to disk, and renamed once every
rank's part is there. The training goes on meanwhile: the state is copied first, and a save that fails leaves the
checkpoints before it as they are. The cursor names the task that it belongs to, so that another task in the same
place never resumes from it, and has every file's checksum: a checkpoint that the disk has damaged is set aside, and
the one before it used. Random states and the learning rate's schedule need no tensors: every step seeds the
former from the task's seed, the step and the rank, and computes the latter from the step, so the cursor holds them.
The number of ranks may change between saving and loading.
"""

import hashlib
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from pydantic import ValidationError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.optim import Optimizer

from services.trainer.orders import Dtype
from services.trainer.ranks import Ranks, RanksSilent
from shared.errors import Unavailable
from shared.schema import Schema
from shared.shards import sync_folder
from shared.telemetry import get_logger
from shared.training import TrainingTask

_log = get_logger(__name__)


class Cursor(Schema):
    """Where a training stands."""

    task: TrainingTask
    dtype: Dtype
    step: int
    """Steps done."""
    losses: list[float]
    """Loss of each of them."""
    grad_norms: list[float]
    """Gradient norm of each of them, before clipping."""
    held_out_losses: list[tuple[int, float]] = []
    base: str | None = None
    """Fingerprint of the frozen weights that an adapter belongs to; see `weights.identify`."""
    checksums: dict[str, str] = {}
    """SHA-256 of each of the checkpoint's other files."""


def stage_folder(runs_root: Path, task: TrainingTask) -> Path:
    """Where the checkpoints and the export of one training lie."""
    return (runs_root / task.job / "checkpoints" / f"stage-{task.stage}").absolute()


def step_folder(stage: Path, step: int) -> Path:
    return stage / f"step-{step:06d}"


def find_latest(stage: Path, task: TrainingTask) -> tuple[Path, Cursor] | None:
    """The newest intact checkpoint of this very task, if there is one; a damaged one is renamed `corrupt-step-N`."""
    for folder in sorted(stage.glob("step-*"), reverse=True):
        cursor = _read_cursor(folder)
        if isinstance(cursor, Cursor):
            if cursor.task != task:
                continue
            damaged = sorted(cursor.checksums.items() ^ _digest(folder).items())
            if not damaged:
                return folder, cursor
            fault = f"{damaged[0][0]} is not as it was written"
        else:
            fault = cursor
        _log.error("checkpoint is damaged: the one before it is used", checkpoint=str(folder), fault=fault)
        corrupt = folder.with_name(f"corrupt-{folder.name}")
        shutil.rmtree(corrupt, ignore_errors=True)
        folder.rename(corrupt)
    return None


def prune(stage: Path, keep: int, task: TrainingTask) -> None:
    """Remove all but the newest `keep` checkpoints of this task, those of other tasks, and unfinished ones; where none
    is kept, damaged ones, too."""
    own: list[Path] = []
    for folder in sorted(stage.glob("step-*"), reverse=True):
        cursor = _read_cursor(folder)
        if isinstance(cursor, Cursor) and cursor.task == task and len(own) < keep:
            own.append(folder)
        else:
            shutil.rmtree(folder)
    for useless in [*stage.glob(".*.tmp"), *([] if keep else stage.glob("corrupt-*"))]:
        shutil.rmtree(useless)


class Saver:
    """One rank's writer of checkpoints, one at a time. All ranks call its methods in the same order."""

    def __init__(self, ranks: Ranks, keep: int, timeout_s: float) -> None:
        self.fault: str | None = None
        """Why the last save failed, where it did."""
        self._ranks = ranks
        self._keep = keep
        self._timeout_s = timeout_s
        # A group of its own: collectives of the save and of the training run at the same time.
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        assert isinstance(group, dist.ProcessGroup)
        self._group = group
        self._committer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def start(self, folder: Path, cursor: Cursor, model: nn.Module, optimizer: Optimizer) -> None:
        """Copy the state and begin to write it; waits for the save before this one."""
        self.finish()
        self.fault = None
        temporary = folder.with_name(f".{folder.name}.tmp")
        if self._ranks.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        self._ranks.barrier()
        written = dcp.async_save(_state(model, optimizer), checkpoint_id=temporary, process_group=self._group)
        assert isinstance(written, Future)
        self._pending = self._committer.submit(self._commit, written, temporary, folder, cursor)

    def finish(self) -> None:
        """Wait until what was begun is durable or has failed, see `fault`.

        Raises `Unavailable` where the disk does not answer, and RuntimeError where a rank does not: known first.
        """
        if self._pending:
            try:
                self._pending.result(2 * self._timeout_s)
            except TimeoutError:
                raise Unavailable(
                    f"A checkpoint has not been written within {2 * self._timeout_s:.0f} s.",
                    remedy="See whether the disk of DRIFT_RUNS_ROOT answers, or raise DRIFT_COLLECTIVE_TIMEOUT_S.",
                ) from None
            self._pending = None

    def _commit(self, written: "Future[object]", temporary: Path, folder: Path, cursor: Cursor) -> None:
        """Rank 0 gives the folder its name; its part of the save is done when everyone's is."""
        try:
            written.result()
            if self._ranks.rank == 0:
                sealed = cursor.model_copy(update={"checksums": _digest(temporary)})
                write_durably(temporary / "cursor.json", sealed.model_dump_json())
                publish_folder(temporary, folder)
                prune(folder.parent, self._keep, cursor.task)
        except (Exception, CheckpointException) as error:  # a full disk must not end a training that is well
            if isinstance(self._ranks.explain(error), RanksSilent):
                raise
            self.fault = _describe(error)
            _log.error("checkpoint failed", folder=str(folder), fault=self.fault)
            if self._ranks.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)


def _describe(error: BaseException) -> str:
    """What went wrong, in one line; what torch collects from the ranks has a traceback of each."""
    if isinstance(error, CheckpointException):
        return "; ".join(f"rank {rank}: {_describe(fault)}" for rank, (fault, _) in error.failures.items())
    return f"{type(error).__name__}: {error}"


def load(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Restore model and optimiser in place."""
    dcp.load(_state(model, optimizer), checkpoint_id=folder)


def _read_cursor(folder: Path) -> Cursor | str:
    """The cursor, or why there is none."""
    try:
        return Cursor.model_validate_json((folder / "cursor.json").read_bytes())
    except (OSError, ValidationError) as error:
        return f"cursor.json cannot be read: {error}"


def _digest(folder: Path) -> dict[str, str]:
    digests: dict[str, str] = {}
    for path in folder.iterdir():
        if path.name != "cursor.json":
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def write_durably(path: Path, text: str) -> None:
    """Write a small file so that it survives a loss of power once its folder is synced."""
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def publish_folder(temporary: Path, folder: Path) -> None:
    """Give a finished folder its name, replacing an older one."""
    sync_folder(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    sync_folder(folder.parent)


def make_moments(optimizer: Optimizer) -> None:
    """AdamW's state, as its first step would make it."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = optimizer.state[parameter]
            if not moments:
                moments["step"] = torch.zeros((), device=parameter.device)  # a fused kernel reads it there
                moments["exp_avg"] = torch.zeros_like(parameter)
                moments["exp_avg_sq"] = torch.zeros_like(parameter)


def _state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Every trained tensor by name; AdamW's moments are made first where no step has made them yet."""
    make_moments(optimizer)
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        state[f"model.{name}"] = parameter.detach()
        state |= {f"optimizer.{name}.{moment}": value for moment, value in optimizer.state[parameter].items()}
    return state
