"""Promises of checkpoints: the very same state comes back, whole or not at all, and a failed save harms nothing."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from structlog.testing import CapturingLogger
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter

from services.trainer import checkpoint
from services.trainer.checkpoint import Cursor, Saver, find_latest, load, make_moments, prune, step_folder
from services.trainer.ranks import Ranks, RanksSilent
from shared.returns import ReturnSpec
from shared.training import TrainingTask, TrainSpec

TASK = TrainingTask(
    job="job", stage=0, model="m", tokenizer="m", groups=6, group_size=4, train=TrainSpec(), returns=ReturnSpec()
)


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Ranks(0, 1, torch.device("cpu"))
    dist.destroy_process_group()


@pytest.fixture
def saver(ranks: Ranks) -> Saver:
    return Saver(ranks, keep=2, timeout_s=20)


def test_the_moments_are_where_the_weights_are() -> None:
    """A fused AdamW's count of steps, too: on a GPU its kernel reads it there."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.empty(3, device="meta"))])
    make_moments(optimizer)
    [moments] = optimizer.state.values()
    assert {moment.device.type for moment in moments.values()} == {"meta"}


class Student:
    """A model that learns one step a call."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Linear(64, 64)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.steps = 0

    def learn(self) -> None:
        self.steps += 1
        torch.manual_seed(self.steps)
        self.model(torch.randn(8, 64)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]

    def save(self, saver: Saver, stage: Path, task: TrainingTask = TASK) -> Cursor:
        losses = [1.0] * self.steps
        cursor = Cursor(task=task, dtype="float32", step=self.steps, losses=losses, grad_norms=losses)
        saver.start(step_folder(stage, self.steps), cursor, self.model, self.optimizer)
        return cursor


def test_a_resumed_training_continues_bit_for_bit(saver: Saver, tmp_path: Path) -> None:
    """Even though the training went on while the checkpoint was being written."""
    student, resumed = Student(), Student(seed=1)
    for _ in range(3):
        student.learn()
    cursor = student.save(saver, tmp_path)
    for _ in range(3):
        student.learn()
    saver.finish()
    assert saver.fault is None
    latest = find_latest(tmp_path, TASK)
    assert latest is not None and latest[1].model_copy(update={"checksums": {}}) == cursor
    load(latest[0], resumed.model, resumed.optimizer)
    resumed.steps = 3
    for _ in range(3):
        resumed.learn()
    for wanted, got in zip(student.state(), resumed.state(), strict=True):
        assert torch.equal(wanted, got)


def test_the_newest_are_kept_and_another_task_never_resumes_from_here(saver: Saver, tmp_path: Path) -> None:
    student = Student()
    for _ in range(4):
        student.learn()
        student.save(saver, tmp_path)
    saver.finish()
    assert [folder.name for folder in sorted(tmp_path.iterdir())] == ["step-000003", "step-000004"]
    other = TASK.model_copy(update={"train": TrainSpec(steps=7)})
    assert find_latest(tmp_path, other) is None
    prune(tmp_path, 2, other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["a bit", "a file", "the cursor", "nothing at all"])
def test_a_damaged_checkpoint_is_set_aside_by_name_and_the_one_before_it_used(
    saver: Saver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(checkpoint, "_log", log)
    student = Student()
    for _ in range(2):
        student.learn()
        student.save(saver, tmp_path)
    saver.finish()
    newest = step_folder(tmp_path, 2)
    data = newest / "__0_0.distcp"
    if damage == "a bit":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "a file":
        data.unlink()
    elif damage == "the cursor":
        (newest / "cursor.json").write_text("{")
    latest = find_latest(tmp_path, TASK)
    assert latest is not None
    if damage == "nothing at all":
        assert latest[0] == newest
        return
    assert latest[0] == step_folder(tmp_path, 1) and latest[1].step == 1
    logged = log.calls[0].kwargs
    assert logged["checkpoint"] == str(newest)
    assert ("cursor.json" if damage == "the cursor" else data.name) in logged["fault"]
    student.learn()
    student.save(saver, tmp_path)
    saver.finish()
    left = ["corrupt-step-000002", "step-000001", "step-000003"]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == left
    shutil.copytree(step_folder(tmp_path, 3), step_folder(tmp_path, 2))
    (step_folder(tmp_path, 3) / "cursor.json").write_text("{")
    (step_folder(tmp_path, 2) / "cursor.json").write_text("{")
    latest = find_latest(tmp_path, TASK)
    assert latest is not None and latest[1].step == 1, "one of the same step had been set aside before"
    prune(tmp_path, 0, TASK)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("writer", "broken"),
    [
        (Path, "mkdir"),
        (FileSystemWriter, "write_data"),
        (checkpoint, "write_durably"),
        (checkpoint, "publish_folder"),
    ],
)
def test_a_save_that_fails_leaves_the_one_before_and_the_training_alone(
    saver: Saver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: object, broken: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    student = Student()
    student.learn()
    first = student.save(saver, tmp_path)
    saver.finish()
    student.learn()
    with monkeypatch.context() as patch:
        patch.setattr(writer, broken, fail)
        student.save(saver, tmp_path)
        saver.finish()
    assert saver.fault is not None and saver.fault.endswith("OSError: no space left on device")
    latest = find_latest(tmp_path, TASK)
    assert latest is not None and latest[1].model_copy(update={"checksums": {}}) == first
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-000001"]
    student.learn()
    student.save(saver, tmp_path)
    saver.finish()
    assert saver.fault is None and (tmp_path / "step-000003").is_dir()


def test_a_rank_that_falls_silent_while_a_checkpoint_is_written_is_said_to_be_silent(
    saver: Saver, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the disk is not blamed for it."""

    def wait_in_vain(*_: object) -> None:
        raise RuntimeError("Timed out waiting 5000ms for recv operation to complete")

    student = Student()
    student.learn()
    monkeypatch.setattr(checkpoint, "write_durably", wait_in_vain)
    student.save(saver, tmp_path)
    with pytest.raises(RuntimeError) as silence:
        saver.finish()
    assert isinstance(ranks.explain(silence.value), RanksSilent)
    assert saver.fault is None
