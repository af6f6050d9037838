"""The model under training: loading, sharding, and the dtype of its matrix products.

Trained weights and the optimiser are float32. More than one rank shares them by FSDP2: gathered once a step where
they fit, else layer by layer in each pass. Gradients are summed, never averaged, because the loss has its one
global denominator already.
"""

import contextlib
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from services.trainer.adapter import attach_adapter, base_of, begin_adapter
from services.trainer.loss import SupervisedModel, is_plain
from services.trainer.orders import Dtype
from services.trainer.population import Example
from services.trainer.ranks import Ranks
from services.trainer.weights import Weights, local_folder
from shared.training import LoraSpec, TrainSpec

_AT_ONCE = 1 << 20
"""Elements of a gradient that are converted and added at a time: they stay in the cache, and no copy of all is made."""


@dataclass(frozen=True)
class Sharding:
    """How weights and activations lie in memory."""

    keep_gathered: bool = True
    """Gather the weights once a step and reduce gradients once: fewer transfers, and each rank holds them whole."""
    gathered: torch.dtype | None = None
    """Dtype of gathered weights; None: that of the shards."""
    frozen: torch.dtype = torch.float32
    """Dtype of weights that are not trained."""
    recompute: bool = False
    """Keep each layer's input only and compute the layer again in the backward pass (activation checkpointing)."""


def build_model(source: str, lora: LoraSpec | None) -> PreTrainedModel:
    """The model's parameters on the meta device, float32, with the adapter's where one is trained; no bytes yet."""
    base = base_of(source)
    if base != source and lora is None:
        raise ValueError(f"{source} is an adapter of {base}: give `train.lora` to continue it")
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    if quantisation := getattr(config, "quantization_config", None):
        raise ValueError(f"{base} is quantised ({quantisation['quant_method']}): give the model in full precision")
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.tie_weights()
    if (local_folder(base) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(local_folder(base))
    if lora is not None:
        attach_adapter(model, source, lora)
    return model


def load_weights(
    model: PreTrainedModel, source: str, spec: TrainSpec, ranks: Ranks, sharding: Sharding
) -> PreTrainedModel:
    """Give a model of `build_model` its weights, spread over the ranks layer by layer where there are several.

    Trained weights are float32, frozen ones `sharding.frozen`. Each layer is read, then shared out before the next one
    is read, so that no rank ever holds more than its share and one layer. Safetensors only, no code from there.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    adapter = begin_adapter(model, source, spec.seed) if spec.lora else {}
    stored = {name: name.replace(".base_layer.", ".") for name in names.values() if name not in adapter}
    weights = Weights(base_of(source), set(stored.values()))
    kept = {id(buffer): name for name, buffer in kept_buffers(model).items()}
    filled: dict[int, nn.Parameter] = {}

    def fill(module: nn.Module) -> None:
        for child in module.modules():
            for key, parameter in list(child.named_parameters(recurse=False)):
                if not parameter.is_meta:
                    continue
                if id(parameter) not in filled:  # tied weights are one parameter in two places
                    name = names[id(parameter)]
                    value = adapter[name] if name in adapter else weights.read(stored[name])
                    dtype = torch.float32 if parameter.requires_grad else sharding.frozen
                    data = torch.empty(value.shape, dtype=dtype, device=ranks.device).copy_(value)
                    filled[id(parameter)] = nn.Parameter(data, requires_grad=parameter.requires_grad)
                setattr(child, key, filled[id(parameter)])
            for key, buffer in child.named_buffers(recurse=False):
                name = kept.get(id(buffer))
                value = weights.read(name).to(buffer.dtype) if name is not None and name in weights else buffer
                setattr(child, key, value.to(ranks.device))

    mesh = init_device_mesh(ranks.device.type, (ranks.size,)) if ranks.size > 1 else None
    for part in list_parts(model):
        fill(part)
        if mesh is not None:
            shard_part(part, mesh, sharding)
    if sharding.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def kept_buffers(model: nn.Module) -> dict[str, Tensor]:
    """By name the buffers that are stored with the weights; no gradient changes them."""
    stored = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in stored}


def list_parts(model: PreTrainedModel) -> list[nn.Module]:
    """What is gathered at a time: every layer, then the model with what is left."""
    layers: nn.ModuleList | None = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        raise ValueError(f"{type(model).__name__} does not keep its layers as `layers`: take another architecture")
    return [*layers, model]


def shard_part(part: nn.Module, mesh: DeviceMesh, sharding: Sharding) -> None:
    """Spread the parameters of one part over the ranks."""
    policy = MixedPrecisionPolicy(param_dtype=sharding.gathered, reduce_dtype=torch.float32)
    sharded = fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=not sharding.keep_gathered)
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)  # gloo sums only


def sync_gradients(model: nn.Module, last: bool, sharding: Sharding) -> None:
    """Reduce gradients and free the gathered weights only in a step's last micro-batch, if they may stay so long."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last or not sharding.keep_gathered)
        model.set_reshard_after_backward(last or not sharding.keep_gathered)


def free_gathered(model: nn.Module) -> None:
    """Free the gathered weights after a forward pass that no backward pass follows."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextlib.contextmanager
def computing_in(model: PreTrainedModel, dtype: Dtype) -> Iterator[None]:
    """Forward and backward passes in `dtype`, gradients added up in float32.

    For bfloat16 a layer's weights are cast as it is entered, so that copies of all are never there at once where layers
    are recomputed; of input embeddings the rows are cast that are looked up, of a plain output layer the parts of the
    vocabulary that are at hand; what else is outside of the layers has its copies all the while. A gradient goes to the
    float32 weight as soon as it is there, that of the input embeddings as the few rows that it has. Under FSDP the
    weights are cast as they are used.
    """
    if isinstance(model, FSDPModule):
        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            yield
        return
    with contextlib.ExitStack() as stack:
        embeddings = model.get_input_embeddings()
        if isinstance(embeddings, nn.Embedding):
            embeddings.sparse = embeddings.weight.grad is not None  # AdamW needs a dense one to add the rows to
            stack.callback(setattr, embeddings, "sparse", False)
        if dtype == "float32":
            yield
            return
        stack.callback(embeddings.register_forward_hook(_cast_rows).remove)
        *layers, _ = list_parts(model)
        for layer in layers:
            cast = _Cast(layer)
            stack.callback(layer.register_forward_pre_hook(cast.enter).remove)
            stack.callback(layer.register_forward_hook(cast.leave, always_call=True).remove)
        within = {id(parameter) for layer in layers for parameter in layer.parameters()}
        head = model.get_output_embeddings()
        apart = (embeddings, head) if head is not None and is_plain(head) else (embeddings,)
        outside = [place for place in _places(model) if place[0] not in apart and id(place[2]) not in within]
        copies = {parameter: _copy(parameter) for _, _, parameter in outside}
        for module, name, parameter in outside:
            module._parameters[name] = copies[parameter]
            stack.callback(module._parameters.__setitem__, name, parameter)
        yield


class _Cast:
    """Hooks of a layer, which computes with its weights cast to bfloat16."""

    def __init__(self, layer: nn.Module) -> None:
        self._places = list(_places(layer))

    def enter(self, *_: object) -> None:
        for module, name, parameter in self._places:
            module._parameters[name] = parameter.bfloat16()  # pyright: ignore[reportArgumentType] - in the graph, no leaf

    def leave(self, *_: object) -> None:
        for module, name, parameter in self._places:
            module._parameters[name] = parameter


def _cast_rows(_module: nn.Module, _inputs: object, rows: Tensor) -> Tensor:
    return rows.bfloat16()


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield module, name, parameter


def _copy(parameter: nn.Parameter) -> nn.Parameter:
    copy = nn.Parameter(parameter.detach().bfloat16(), requires_grad=parameter.requires_grad)
    if parameter.requires_grad:
        copy.register_post_accumulate_grad_hook(functools.partial(_hand_over, parameter))
    return copy


def _hand_over(parameter: nn.Parameter, copy: Tensor) -> None:
    assert copy.grad is not None
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    parts = parameter.grad.view(-1).split(_AT_ONCE), copy.grad.reshape(-1).split(_AT_ONCE)
    for total, part in zip(*parts, strict=True):
        total += part
    copy.grad = None


@torch.no_grad()
def choose_dtype(model: SupervisedModel, ranks: Ranks) -> Dtype:
    """bfloat16 on a GPU; on a CPU the faster one of a forward pass, all ranks at once.

    bfloat16 is twice as fast on a quiet CPU that has the instructions for it and ten times slower elsewhere.
    """
    if ranks.device.type == "cuda":
        return "bfloat16"
    probe = [Example(trajectory="", tokens=[token] * 256, spans=[(240, 256)], coefficient=1.0) for token in (1, 2)]
    candidates: tuple[Dtype, ...] = ("float32", "bfloat16")
    seconds = torch.zeros(len(candidates), dtype=torch.float64)
    for _ in range(2):  # the second round is warm
        for place, dtype in enumerate(candidates):
            began = time.perf_counter()
            with computing_in(model.model, dtype):
                model.sum_nll(probe)
            seconds[place] = time.perf_counter() - began
    free_gathered(model.model)
    ranks.sum(seconds)
    return candidates[int(seconds.argmin())]
