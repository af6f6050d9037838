"""Promises of the estimate of memory, and of the recipes in `examples/` that rest on it. No hub is asked: the
configurations are written down from the models' published ones, and their sizes checked against published counts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from accelerate import init_empty_weights
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from services.trainer.adapter import attach_adapter
from services.trainer.memory import RESERVE, bytes_per_token, estimate_memory
from services.trainer.model import Sharding, list_parts, shard_part
from shared.job import JobSpec
from shared.training import LoraSpec

EXAMPLES = Path(__file__).parents[2] / "examples"
GPU = 79 * 2**30
"""What an A100 or H100 of 80 GB has."""
CONFIGS = {
    "qwen2.5-3b": Qwen2Config(
        hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
        num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True,
    ),
    "qwen2.5-7b": Qwen2Config(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False,
    ),
    "llama-3.1-8b": LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False,
    ),
}  # fmt: skip
PUBLISHED = {"qwen2.5-3b": 3.09e9, "qwen2.5-7b": 7.62e9, "llama-3.1-8b": 8.03e9}
RECIPES = [
    (recipe, ranks)
    for recipe, counts in {
        "qwen2.5-3b": (1, 4, 8),
        "qwen2.5-7b-lora": (1,),
        "qwen2.5-7b": (4, 8),
        "llama-3.1-8b-lora": (1,),
        "llama-3.1-8b": (4, 8),
    }.items()
    for ranks in counts
]


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[int]:
    """As many ranks as asked for, of which this is the first and the others are not there."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=request.param)
    yield request.param
    dist.destroy_process_group()


def build(name: str, lora: LoraSpec | None = None) -> PreTrainedModel:
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32)
    model.tie_weights()
    if lora:
        attach_adapter(model, name, lora)
    return model


def gathered_in(ranks: int) -> Sharding:
    """What a GPU's trainer uses where all of the weights at once would not fit."""
    return Sharding(keep_gathered=False, gathered=torch.bfloat16, frozen=torch.bfloat16)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configurations_have_the_published_sizes(name: str) -> None:
    count = sum(parameter.numel() for parameter in build(name).parameters())
    assert count == pytest.approx(PUBLISHED[name], rel=2e-3)


@pytest.mark.parametrize("world", [4, 8], indirect=True)
@pytest.mark.parametrize("lora", [None, LoraSpec(r=8)])
def test_a_rank_holds_the_estimated_bytes_of_weights(world: int, lora: LoraSpec | None) -> None:
    model = build("qwen2.5-3b", lora)
    sharding = gathered_in(world)
    for parameter in model.parameters():  # as loading does
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(sharding.frozen)
    estimate = estimate_memory(model, world, sharding, 1024)
    mesh = init_device_mesh("cpu", (world,))
    for part in list_parts(model):
        shard_part(part, mesh, sharding)
    held = trained = 0
    for parameter in model.parameters():
        assert isinstance(parameter, DTensor), "every weight is shared out"
        local = parameter.to_local()
        held += local.numel() * local.element_size()
        trained += local.numel() * parameter.requires_grad
    assert held == pytest.approx(estimate.weights, rel=0.01)
    assert 4 * trained == pytest.approx(estimate.gradients, rel=0.01) == pytest.approx(estimate.optimizer / 2, rel=0.01)


@pytest.mark.parametrize("lora", [False, True])
def test_activations_stay_below_the_estimate_and_near_it(lora: bool) -> None:
    """Counted in a real forward pass: the tensors that it keeps for the backward pass, without copies of weights."""
    config = LlamaConfig(
        hidden_size=256, intermediate_size=704, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=64,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    if lora:
        model.get_decoder().requires_grad_(False)
        model.get_input_embeddings().requires_grad_(True)
    tokens = 512
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tokens in tensor.shape:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16), hooks:
        output = model.get_decoder()(input_ids=torch.ones(1, tokens, dtype=torch.long), use_cache=False)
    measured = sum(kept.values()) / tokens
    assert output.last_hidden_state.requires_grad
    assert (0.3 if lora else 0.9) * bytes_per_token(model) <= measured <= 1.02 * bytes_per_token(model)


@pytest.mark.parametrize(("recipe", "ranks"), RECIPES)
def test_a_recipe_fits_its_gpus_and_its_arithmetic_is_written_down(recipe: str, ranks: int) -> None:
    spec = JobSpec.model_validate(yaml.safe_load((EXAMPLES / "recipes" / f"{recipe}.yaml").read_text()))
    assert spec.train is not None and bool(spec.train.lora) == recipe.endswith("-lora")
    model = build(recipe.removesuffix("-lora"), spec.train.lora)
    estimate = estimate_memory(model, ranks, gathered_in(ranks), spec.train.max_length)
    assert estimate.total <= RESERVE * GPU, estimate.describe()
    gib = [value / 2**30 for value in (
        estimate.weights, estimate.gradients, estimate.optimizer, estimate.gathered, estimate.activations,
        estimate.logits, estimate.total,
    )]  # fmt: skip
    row = f"| `{recipe}.yaml` | {ranks} | " + " | ".join(f"{value:.1f}" for value in gib) + " |"
    assert row in (EXAMPLES / "recipes" / "README.md").read_text(), f"write this down:\n{row}"


def test_the_first_job_is_valid_and_its_questions_are_there() -> None:
    spec = JobSpec.model_validate(yaml.safe_load((EXAMPLES / "first-job.yaml").read_text()))
    assert spec.dataset is not None and spec.dataset.path is not None
    assert (EXAMPLES / spec.dataset.path).is_file()
