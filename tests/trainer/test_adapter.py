"""Promises of LoRA: only adapters are trained and saved, and what is exported computes what was trained."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from services.trainer.checkpoint import Cursor, Saver
from services.trainer.executor import Executor, TrainingError
from services.trainer.orders import Begin, Export, Step
from services.trainer.packing import split_batch
from services.trainer.plan import make_plan
from services.trainer.ranks import Ranks
from services.trainer.weights import identify
from shared.returns import ReturnSpec
from shared.training import LoraSpec, TrainingTask, TrainSpec
from tests.trainer.tiny import make_groups, save_model

TOKENS = torch.tensor([[1, 5, 9, 33, 7, 2]])


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Ranks(0, 1, torch.device("cpu"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("model")))


def make_task(base: str, model: str | None = None, **lora: object) -> TrainingTask:
    spec = LoraSpec.model_validate({"r": 4, "alpha": 8} | lora)
    train = TrainSpec(steps=6, batch_size=8, learning_rate=1e-2, lora=spec)
    return TrainingTask(
        job="job", stage=0, model=model or base, tokenizer=base, groups=6, group_size=4, train=train,
        returns=ReturnSpec(),
    )  # fmt: skip


def begin(ranks: Ranks, task: TrainingTask, folder: Path | None = None) -> Executor:
    return Executor(ranks, Begin(task=task, dtype="float32", checkpoint=str(folder) if folder else None))


def take_steps(executor: Executor, task: TrainingTask, steps: range) -> None:
    plan = make_plan(make_groups(), task.returns, task.train)
    for step in steps:
        shares = split_batch(plan.batch(step), 1, 64)
        assert executor.step(Step(step=step + 1, learning_rate=1e-2, shares=shares)).suspects == []


def weights(executor: Executor) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in executor.model.named_parameters()}


def compute(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS, use_cache=False).logits


def export(executor: Executor, folder: Path) -> Path:
    executor.export(Export(folder=str(folder), card="card"))
    return folder


def trained_logits(task: TrainingTask, trained: dict[str, Tensor]) -> Tensor:
    """W + (alpha / r) B A written out, on the plain base."""
    model = AutoModelForCausalLM.from_pretrained(task.tokenizer, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.default.weight" in trained:
            up, down = trained[f"{stem}.lora_B.default.weight"], trained[f"{stem}.lora_A.default.weight"]
            parameter.data += 2 * up @ down
    return compute(model)


def test_only_adapters_change_and_they_begin_as_the_base(ranks: Ranks, base: str) -> None:
    task = make_task(base)
    executor = begin(ranks, task)
    before = weights(executor)
    plain = compute(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    torch.testing.assert_close(trained_logits(task, before), plain)
    take_steps(executor, task, range(3))
    after = weights(executor)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in changed} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_a_checkpoint_holds_adapters_alone_and_resumes_bit_for_bit(ranks: Ranks, base: str, tmp_path: Path) -> None:
    task = make_task(base, dropout=0.1)
    undisturbed = begin(ranks, task)
    take_steps(undisturbed, task, range(6))
    interrupted = begin(ranks, task)
    take_steps(interrupted, task, range(3))
    folder = tmp_path / "step-000003"
    cursor = Cursor(task=task, dtype="float32", step=3, losses=[1, 2, 3], grad_norms=[1, 1, 1])
    saver = Saver(ranks, 1, 60)
    saver.start(folder, cursor, interrupted.model, interrupted.optimizer)
    saver.finish()
    assert saver.fault is None
    held = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    assert held and all("lora_" in name for name in held)
    resumed = begin(ranks, task, folder)
    take_steps(resumed, task, range(3, 6))
    assert all(torch.equal(weights(undisturbed)[name], after) for name, after in weights(resumed).items())


def test_the_exported_adapter_computes_what_was_trained(ranks: Ranks, base: str, tmp_path: Path) -> None:
    task = make_task(base, target_modules=["q_proj", "down_proj"])
    executor = begin(ranks, task)
    take_steps(executor, task, range(3))
    folder = export(executor, tmp_path / "export")
    assert {path.name for path in folder.iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md",
    }  # fmt: skip
    assert not (folder / "model.safetensors").exists()
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)
    wanted = trained_logits(task, weights(executor))
    torch.testing.assert_close(compute(loaded), wanted, rtol=1e-4, atol=1e-5)
    assert (wanted - compute(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))).abs().max() > 1e-2


def test_merged_weights_compute_what_was_trained(ranks: Ranks, base: str, tmp_path: Path) -> None:
    task = make_task(base, merge=True)
    executor = begin(ranks, task)
    take_steps(executor, task, range(3))
    folder = export(executor, tmp_path / "export")
    assert not (folder / "adapter_config.json").exists()
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert {name for name, _ in loaded.named_parameters()} == set(load_file(folder / "model.safetensors"))
    torch.testing.assert_close(compute(loaded), trained_logits(task, weights(executor)), rtol=1e-4, atol=1e-5)


def test_a_later_stage_continues_the_adapter(ranks: Ranks, base: str, tmp_path: Path) -> None:
    task = make_task(base)
    executor = begin(ranks, task)
    take_steps(executor, task, range(3))
    folder = export(executor, tmp_path / "export")
    continued = begin(ranks, make_task(base, str(folder)))
    assert weights(continued).keys() == weights(executor).keys()
    assert all(torch.equal(weights(executor)[name], value) for name, value in weights(continued).items())
    take_steps(continued, task, range(1))
    assert export(continued, tmp_path / "next").is_dir()


def test_an_adapter_without_lora_is_refused(ranks: Ranks, base: str, tmp_path: Path) -> None:
    folder = export(begin(ranks, make_task(base)), tmp_path / "export")
    task = make_task(base, str(folder))
    full = task.model_copy(update={"train": task.train.model_copy(update={"lora": None})})
    with pytest.raises(TrainingError, match=r"is an adapter of .*give `train.lora`"):
        begin(ranks, full)


@pytest.mark.parametrize(
    ("lora", "fault"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, r"model\.embed_tokens: no linear layer"),
        ({"target_modules": ["lm_head"], "merge": True}, r"output layer .*input embeddings"),
    ],
)
def test_what_could_not_be_trained_or_exported_is_refused_at_the_start(
    ranks: Ranks, base: str, lora: dict[str, object], fault: str
) -> None:
    with pytest.raises(TrainingError, match=fault):
        begin(ranks, make_task(base, None, **lora))


def test_an_adapter_of_another_shape_is_not_continued_in_silence(ranks: Ranks, base: str, tmp_path: Path) -> None:
    folder = export(begin(ranks, make_task(base)), tmp_path / "export")
    with pytest.raises(TrainingError, match=r"has r 4 and alpha 8, `train.lora` says 16 and 8"):
        begin(ranks, make_task(base, str(folder), r=16))


def test_weights_that_have_changed_have_another_fingerprint(base: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    assert identify(str(copy)) == identify(base)
    save_model(copy, seed=1)
    assert identify(str(copy)) != identify(base)
