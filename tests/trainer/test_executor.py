"""Promises of a rank's own work: it refuses what is not finite, and a checkpoint brings back the very same state."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from services.trainer import checkpoint
from services.trainer.checkpoint import Cursor, find_latest, prune, step_folder
from services.trainer.executor import Executor, TrainingError
from services.trainer.orders import Begin, Save, Step
from services.trainer.plan import make_plan, split_batch
from services.trainer.ranks import Ranks
from shared.job import TrainingTask, TrainSpec
from shared.returns import ReturnSpec
from tests.trainer.tiny import make_groups, save_model


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Ranks(0, 1, torch.device("cpu"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TrainingTask:
    model = str(save_model(tmp_path_factory.mktemp("model")))
    train = TrainSpec(steps=6, batch_size=8, learning_rate=1e-2)
    return TrainingTask(
        job="job", stage=0, model=model, tokenizer=model, groups=6, group_size=4, train=train, returns=ReturnSpec()
    )


def begin(ranks: Ranks, task: TrainingTask, folder: Path | None = None) -> Executor:
    return Executor(ranks, Begin(task=task, dtype="float32", checkpoint=str(folder) if folder else None))


def orders(task: TrainingTask) -> list[Step]:
    plan = make_plan(make_groups(), task.returns, task.train)
    return [
        Step(step=step + 1, learning_rate=1e-2, shares=split_batch(plan.batch(step), 1, 64))
        for step in range(plan.steps)
    ]


def weights(executor: Executor) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in executor.model.named_parameters()}


def test_a_step_that_is_not_finite_changes_nothing_and_names_its_trajectories(ranks: Ranks, task: TrainingTask) -> None:
    executor = begin(ranks, task)
    before = weights(executor)
    order = orders(task)[0]
    micro = order.shares[0][0]
    poisoned = [micro[0].model_copy(update={"coefficient": float("inf")}), *micro[1:]]
    result = executor.step(order.model_copy(update={"shares": [[poisoned, *order.shares[0][1:]]]}))
    assert result.suspects == [micro[0].trajectory]
    assert all(torch.equal(before[name], after) for name, after in weights(executor).items())
    assert executor.step(order).suspects == [], "the next step is a good one"


def test_a_resumed_training_continues_bit_for_bit(ranks: Ranks, task: TrainingTask, tmp_path: Path) -> None:
    undisturbed = begin(ranks, task)
    for order in orders(task):
        undisturbed.step(order)
    interrupted = begin(ranks, task)
    for order in orders(task)[:3]:
        interrupted.step(order)
    cursor = Cursor(task=task, dtype="float32", step=3, losses=[1, 2, 3])
    interrupted.save(Save(folder=str(step_folder(tmp_path, 3)), cursor=cursor.model_dump_json()))
    latest = find_latest(tmp_path, task)
    assert latest is not None and latest[1] == cursor
    resumed = begin(ranks, task, latest[0])
    for order in orders(task)[3:]:
        resumed.step(order)
    assert all(torch.equal(weights(undisturbed)[name], after) for name, after in weights(resumed).items())


def test_another_task_never_resumes_from_here(ranks: Ranks, task: TrainingTask, tmp_path: Path) -> None:
    cursor = Cursor(task=task, dtype="float32", step=1, losses=[1])
    executor = begin(ranks, task)
    for step in (1, 2, 3):
        executor.save(Save(folder=str(step_folder(tmp_path, step)), cursor=cursor.model_dump_json()))
    other = task.model_copy(update={"train": TrainSpec(steps=7)})
    assert find_latest(tmp_path, other) is None
    prune(tmp_path, 2, task)
    assert [folder.name for folder in sorted(tmp_path.iterdir())] == ["step-000002", "step-000003"]
    prune(tmp_path, 2, other)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_cut_short_by_a_crash_is_no_checkpoint(
    ranks: Ranks, task: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "publish_folder", crash)
    cursor = Cursor(task=task, dtype="float32", step=1, losses=[1]).model_dump_json()
    with pytest.raises(OSError, match="no space"):
        begin(ranks, task).save(Save(folder=str(step_folder(tmp_path, 1)), cursor=cursor))
    assert find_latest(tmp_path, task) is None
    prune(tmp_path, 2, task)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_loaded_is_named_with_a_remedy(ranks: Ranks, task: TrainingTask, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"Could not load the model .*nothing.*safetensors"):
        begin(ranks, task.model_copy(update={"model": str(tmp_path / "nothing")}))
