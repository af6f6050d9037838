"""The model under training: loading, sharding, and the dtype of its matrix products.

Weights and optimiser are float32. More than one rank shares them by FSDP2, gathered once a step as long as
they fit: gradients are summed, never averaged, because the loss has its one global denominator already.
"""

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import AutoModelForCausalLM, PreTrainedModel

from services.trainer.loss import SupervisedHead, sum_nll, weighted
from services.trainer.orders import Dtype
from services.trainer.plan import Example
from services.trainer.ranks import Ranks


def load_model(name: str, device: torch.device) -> PreTrainedModel:
    """Float32 weights from a folder or the hub: safetensors only, no code from there."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    torch.nn.Module.to(model, device)
    return model.train()


def shard_model(model: PreTrainedModel, ranks: Ranks) -> None:
    """Spread the weights over the ranks, layer by layer; nothing to do for one rank."""
    if ranks.size == 1:
        return
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    for layer in model.get_decoder().layers:  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue, reportOptionalIterable]
        fully_shard(layer, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo sums only


def sync_gradients(model: nn.Module, last: bool) -> None:
    """Reduce gradients and free the gathered weights only in the last micro-batch of a step."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        model.set_reshard_after_backward(last)


@contextlib.contextmanager
def computing_in(dtype: Dtype, device: torch.device) -> Iterator[None]:
    """Matrix products in `dtype`; float32 is plain."""
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        yield


def choose_dtype(model: nn.Module, head: SupervisedHead, ranks: Ranks) -> Dtype:
    """bfloat16 on a GPU; on a CPU the faster one of a forward and backward pass, all ranks at once.

    bfloat16 is twice as fast on a quiet CPU that has the instructions for it and ten times slower elsewhere.
    """
    if ranks.device.type == "cuda":
        return "bfloat16"
    probe = [Example(trajectory="probe", tokens=[1] * 256, spans=[(240, 256)], coefficient=1.0)] * 2
    candidates: tuple[Dtype, ...] = ("float32", "bfloat16")
    seconds = torch.zeros(len(candidates), dtype=torch.float64)
    for _ in range(2):  # the second round is warm
        for place, dtype in enumerate(candidates):
            began = time.perf_counter()
            with computing_in(dtype, ranks.device):
                weighted(sum_nll(model, head, probe, ranks.device), probe).backward()
            seconds[place] = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    ranks.sum(seconds)
    return candidates[int(seconds.argmin())]
