"""Promises of a rank's own work: a step that is not as it should be changes nothing."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._dynamo import config
from torch._dynamo.utils import counters
from transformers import AutoConfig, AutoModelForCausalLM

from services.trainer.executor import Executor, TrainingError
from services.trainer.orders import Begin, Step
from services.trainer.packing import split_batch
from services.trainer.plan import make_plan
from services.trainer.ranks import Ranks
from shared.returns import ReturnSpec
from shared.training import TrainingTask, TrainSpec
from tests.trainer.tiny import VOCABULARY, make_groups, save_model


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


def begin_compiled(ranks: Ranks, task: TrainingTask) -> Executor:
    return Executor(ranks, Begin(task=task, dtype="float32", checkpoint=None, compile=True))


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


def test_an_exploding_gradient_changes_nothing_and_names_trajectories(ranks: Ranks, task: TrainingTask) -> None:
    executor = begin(ranks, task)
    before = weights(executor)
    order = orders(task)[0]
    result = executor.step(order.model_copy(update={"norm_limit": 1e-6}))
    assert result.finite and len(result.suspects) == 5
    assert all(torch.equal(before[name], after) for name, after in weights(executor).items())
    assert executor.step(order.model_copy(update={"norm_limit": result.grad_norm})).suspects == []
    assert not all(torch.equal(before[name], after) for name, after in weights(executor).items())


def test_a_model_that_cannot_be_loaded_is_named_with_a_remedy(ranks: Ranks, task: TrainingTask, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"Could not load the model .*nothing.*safetensors"):
        begin(ranks, task.model_copy(update={"model": str(tmp_path / "nothing")}))


def test_quantised_weights_are_refused_and_not_taken_for_plain_ones(
    ranks: Ranks, task: TrainingTask, tmp_path: Path
) -> None:
    shutil.copytree(task.model, tmp_path, dirs_exist_ok=True)
    quantised = json.loads((tmp_path / "config.json").read_text())
    quantised["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (tmp_path / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(TrainingError, match=r"quantised \(fp8\).*full precision"):
        begin(ranks, task.model_copy(update={"model": str(tmp_path)}))


def test_a_model_whose_layers_are_not_where_they_are_looked_for_is_refused_by_name(
    ranks: Ranks, task: TrainingTask, tmp_path: Path
) -> None:
    shape = AutoConfig.for_model("gpt2", vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4)
    AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match="GPT2LMHeadModel does not keep its layers"):
        begin(ranks, task.model_copy(update={"model": str(tmp_path)}))


@pytest.mark.parametrize("kind", ["gpt_neox", "opt"])
def test_a_model_whose_heads_each_have_their_own_keys_need_not_say_so(
    ranks: Ranks, task: TrainingTask, tmp_path: Path, kind: str
) -> None:
    shape = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, word_embed_proj_dim=32,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path)
    executor = begin(ranks, task.model_copy(update={"model": str(tmp_path)}))
    assert executor.step(orders(task)[0]).suspects == []


def test_gradients_may_be_made_anew_in_each_step_as_on_a_gpu_for_weights_that_are_not_tied_too(
    ranks: Ranks, task: TrainingTask, tmp_path: Path
) -> None:
    untied = AutoConfig.from_pretrained(task.model, tie_word_embeddings=False)
    AutoModelForCausalLM.from_config(untied).save_pretrained(tmp_path)
    kept, anew = (begin(ranks, task.model_copy(update={"model": str(tmp_path)})) for _ in range(2))
    for order in orders(task)[:2]:
        anew.optimizer.zero_grad()
        kept.step(order)
        anew.step(order)
    wanted = weights(kept)
    for name, weight in weights(anew).items():
        torch.testing.assert_close(weight, wanted[name])


def test_compiled_layers_give_the_same_gradients_for_every_length(ranks: Ranks, task: TrainingTask) -> None:
    plain, compiled = begin(ranks, task), begin_compiled(ranks, task)
    counters.clear()
    graphs: list[int] = []
    for order in orders(task)[:3]:
        for executor in (plain, compiled):
            executor.optimizer.zero_grad()
            executor.backward(order)
        for one, other in zip(plain.model.parameters(), compiled.model.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0 and graphs == [graphs[0]] * 3, "another length was compiled anew"


def test_every_training_is_compiled_however_many_came_before(
    ranks: Ranks, task: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch counts a function's variants over the whole process, and beyond a few compiles no more, without a word."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    with config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for width in (32, 48, 64, 80):
            shape = AutoConfig.from_pretrained(task.model, hidden_size=width, head_dim=width // 4)
            AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path)
            begin_compiled(ranks, task.model_copy(update={"model": str(tmp_path)})).backward(orders(task)[0])


def test_without_a_compiler_compiling_is_refused_with_the_remedy(
    ranks: Ranks, task: TrainingTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TrainingError, match=r"needs a C\+\+ compiler.*DRIFT_TRAINER_COMPILE"):
        begin_compiled(ranks, task)
