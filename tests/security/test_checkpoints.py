"""A model folder is data: pickles in it are never loaded, and code in it is never run."""

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from services.trainer.executor import Executor, TrainingError
from services.trainer.export import export
from services.trainer.orders import Begin
from services.trainer.ranks import Ranks
from shared.returns import ReturnSpec
from shared.training import TrainingTask, TrainSpec
from tests.trainer.tiny import save_model


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._mark),)


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Ranks(0, 1, torch.device("cpu"))
    dist.destroy_process_group()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def begin(ranks: Ranks, folder: Path) -> Executor:
    task = TrainingTask(
        job="job", stage=0, model=str(folder), tokenizer=str(folder), groups=1, group_size=4,
        train=TrainSpec(steps=1), returns=ReturnSpec(),
    )  # fmt: skip
    return Executor(ranks, Begin(task=task, dtype="float32", checkpoint=None))


def test_the_bomb_of_these_tests_is_live(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))
    assert (tmp_path / "mark").is_dir()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "training_args.bin", "adapter_model.bin"])
def test_a_pickle_beside_the_weights_is_not_loaded(name: str, ranks: Ranks, model: Path, tmp_path: Path) -> None:
    (model / name).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    begin(ranks, model)
    assert not (tmp_path / "mark").exists()


def test_a_pickle_in_place_of_the_weights_is_refused(ranks: Ranks, model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    with pytest.raises(TrainingError, match="safetensors"):
        begin(ranks, model)
    (model / "model.safetensors").write_bytes((model / "pytorch_model.bin").read_bytes())
    with pytest.raises(TrainingError, match="safetensors"):
        begin(ranks, model)
    assert not (tmp_path / "mark").exists()


def test_code_in_the_folder_is_not_run_on_loading_nor_on_export(ranks: Ranks, model: Path, tmp_path: Path) -> None:
    code = f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\nclass Evil: pass\n"
    (model / "evil.py").write_text(code)
    config = json.loads((model / "config.json").read_text())
    reference = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    (model / "config.json").write_text(json.dumps(config | {"auto_map": reference}))
    executor = begin(ranks, model)
    task = TrainingTask(
        job="job", stage=0, model=str(model), tokenizer=str(model), groups=1, group_size=4,
        train=TrainSpec(steps=1), returns=ReturnSpec(),
    )  # fmt: skip
    export(executor.model, task, tmp_path / "export", "", ranks)
    (model / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": reference}))
    with pytest.raises(TrainingError):
        begin(ranks, model)
    assert not (tmp_path / "mark").exists()
    assert not list((tmp_path / "export").glob("*.py"))
