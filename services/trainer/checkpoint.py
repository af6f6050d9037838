"""Checkpoints: model, optimiser and cursor as one atomic unit, `checkpoints/stage-S/step-NNNNNN/`.

A checkpoint is a whole folder or no folder: it is written beside its place, synced to disk, and renamed. The
cursor names the task that it belongs to, so that another task in the same place never resumes from it.
Random states need no saving: every step seeds them from the task's seed, the step and the rank. The
number of ranks may change between saving and loading.
"""

import os
import shutil
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.optim import Optimizer

from services.trainer.orders import Dtype
from services.trainer.ranks import Ranks
from shared.job import TrainingTask
from shared.schema import Schema
from shared.shards import sync_folder


class Cursor(Schema):
    """Where a training stands."""

    task: TrainingTask
    dtype: Dtype
    step: int
    """Steps done."""
    losses: list[float]
    """Loss of each of them."""


def stage_folder(runs_root: Path, task: TrainingTask) -> Path:
    """Where the checkpoints and the export of one training lie."""
    return (runs_root / task.job / "checkpoints" / f"stage-{task.stage}").absolute()


def step_folder(stage: Path, step: int) -> Path:
    return stage / f"step-{step:06d}"


def find_latest(stage: Path, task: TrainingTask) -> tuple[Path, Cursor] | None:
    """The newest checkpoint of this very task, if there is one."""
    for folder in sorted(stage.glob("step-*"), reverse=True):
        cursor = Cursor.model_validate_json((folder / "cursor.json").read_bytes())
        if cursor.task == task:
            return folder, cursor
    return None


def prune(stage: Path, keep: int, task: TrainingTask) -> None:
    """Remove all but the newest `keep` checkpoints of this task, those of other tasks, and unfinished ones."""
    own: list[Path] = []
    for folder in sorted(stage.glob("step-*"), reverse=True):
        cursor = Cursor.model_validate_json((folder / "cursor.json").read_bytes())
        if cursor.task == task and len(own) < keep:
            own.append(folder)
        else:
            shutil.rmtree(folder)
    for unfinished in stage.glob(".*.tmp"):
        shutil.rmtree(unfinished)


def save(folder: Path, cursor: str, model: nn.Module, optimizer: Optimizer, ranks: Ranks) -> None:
    """Write a checkpoint; all ranks take part, and it is durable when this returns."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    if ranks.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    ranks.barrier()
    dcp.save(_state(model, optimizer), checkpoint_id=temporary)
    if ranks.rank == 0:
        write_durably(temporary / "cursor.json", cursor)
        publish_folder(temporary, folder)
    ranks.barrier()


def load(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Restore model and optimiser in place."""
    dcp.load(_state(model, optimizer), checkpoint_id=folder)


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


def _state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Every tensor by name; AdamW's moments are made first where no step has made them yet."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        moments = optimizer.state[parameter]
        if not moments:
            moments["step"] = torch.tensor(0.0)
            moments["exp_avg"] = torch.zeros_like(parameter)
            moments["exp_avg_sq"] = torch.zeros_like(parameter)
        state[f"model.{name}"] = parameter.detach()
        state |= {f"optimizer.{name}.{moment}": value for moment, value in moments.items()}
    return state
