"""How much memory one rank of a training needs, from the model's shape alone; an estimate from above.

It is made before a byte is loaded: to choose how weights are shared out, to warn where a training will not fit, and
to check the recipes of `examples/`. Counted are tensors of the training; CUDA's own context, the allocator's
fragments and the communication library's buffers (2 to 4 GB on a GPU) are left to `RESERVE`.
"""

import math
import os
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from services.trainer.cross_entropy import PARTS
from services.trainer.model import Sharding, list_parts
from services.trainer.ranks import Ranks
from shared.telemetry import get_logger

FLOAT32 = 4
RESERVE = 0.9
"""Share of a device's memory that a training may plan with."""

_LOGIT_BYTES = 3 * FLOAT32
"""A logit of the part of the vocabulary at hand: itself, its float32 copy or softmax, and its gradient."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one rank, at the peak of a step."""

    weights: int
    """This rank's shards: trained weights in float32, frozen ones in the dtype that they are kept in."""
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    gathered: int
    """Weights whole for computing, and gradients not yet reduced: all of them, or those of two layers at a time."""
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations + self.logits

    def describe(self) -> str:
        """One line for a log or an error, in GiB."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__} | {"total": self.total}
        return ", ".join(f"{name} {value / 2**30:.1f}" for name, value in parts.items()) + " GiB"


def choose_sharding(model: PreTrainedModel, ranks: Ranks, micro_batch_tokens: int) -> Sharding:
    """How this training's weights lie in the memory of this machine; warns where they will hardly fit at all.

    Weights are gathered once a step where that fits, else layer by layer in each pass; where that is still too much,
    layers are computed again in the backward pass. On a CPU they always are: with the memory that this saves, forests
    are so much larger that a step takes no longer.
    """
    on_gpu = ranks.device.type == "cuda"
    gathered, frozen = (torch.bfloat16, torch.bfloat16) if on_gpu else (None, torch.float32)
    room = int(RESERVE * _memory_of(ranks.device))
    recompute = ((False, True) if on_gpu else (True,)) if model.supports_gradient_checkpointing else (False,)
    choices = [
        Sharding(keep, gathered, frozen, again)
        for again in recompute
        for keep in ((True, False) if ranks.size > 1 else (True,))
    ]
    estimates = [estimate_memory(model, ranks.size, choice, micro_batch_tokens) for choice in choices]
    for choice, estimate in zip(choices, estimates, strict=True):
        if estimate.total <= room:
            return choice
    if ranks.rank == 0:
        _log.warning(
            "this training will hardly fit",
            needed=estimates[-1].describe(),
            available=f"{room / 2**30:.1f} GiB a rank",
            remedy="lower DRIFT_MICRO_BATCH_TOKENS, give it more ranks, or train adapters (train.lora)",
        )
    return choices[-1]


def _memory_of(device: torch.device) -> int:
    """Bytes that one rank may call its own: its GPU's, or its share of this machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def estimate_memory(model: PreTrainedModel, ranks: int, sharding: Sharding, micro_batch_tokens: int) -> MemoryEstimate:
    """Memory of one of `ranks` for a model whose parameters may be on the meta device.

    `micro_batch_tokens`: most tokens of a forward pass.
    """
    config = model.config.get_text_config()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    kept = bytes_per_token(model)
    if sharding.recompute:  # the inputs of all layers, and one layer at a time
        kept = config.num_hidden_layers * FLOAT32 * config.hidden_size + kept // config.num_hidden_layers
    return MemoryEstimate(
        weights=math.ceil((FLOAT32 * trained + sharding.frozen.itemsize * frozen) / ranks),
        gradients=math.ceil(FLOAT32 * trained / ranks),
        optimizer=math.ceil(2 * FLOAT32 * trained / ranks),
        gathered=_gathered(model, sharding) if ranks > 1 else 0,
        activations=micro_batch_tokens * kept,
        logits=micro_batch_tokens * min(PARTS["cuda"], config.vocab_size) * _LOGIT_BYTES,
    )


def bytes_per_token(model: PreTrainedModel) -> int:
    """What the layers keep of one token for the backward pass: products in bfloat16, the residual stream in float32.

    A layer of the Llama family with h hidden units, q and k units of its query and key heads, and m in the middle of
    its MLP keeps the residual stream and the normalised one around both norms (18 h), the inputs of five projections as
    they are cast (10 h), queries and attention's output (4 q), keys and values (4 k), gate, up, the activated gate and
    their product (8 m), and a few numbers a token. Frozen weights (LoRA) keep less.
    """
    config = model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    heads = head * (config.num_attention_heads + keys)
    middle = getattr(config, "intermediate_size", 4 * config.hidden_size)
    return config.num_hidden_layers * (28 * config.hidden_size + 4 * heads + 8 * middle + 64)


def _gathered(model: PreTrainedModel, sharding: Sharding) -> int:
    *layers, _ = list_parts(model)
    within = {id(parameter) for layer in layers for parameter in layer.parameters()}
    rest = sum(_whole_bytes(parameter, sharding) for parameter in model.parameters() if id(parameter) not in within)
    each = [sum(_whole_bytes(parameter, sharding) for parameter in layer.parameters()) for layer in layers]
    return rest + (sum(each) if sharding.keep_gathered else 2 * max(each))


def _whole_bytes(parameter: nn.Parameter, sharding: Sharding) -> int:
    """A gathered weight, and if it is trained its gradient: as computed, and in float32 for the sum over ranks."""
    kept = FLOAT32 if parameter.requires_grad else sharding.frozen.itemsize
    weight = sharding.gathered.itemsize if sharding.gathered else kept
    return parameter.numel() * (weight + (weight + FLOAT32 if parameter.requires_grad else 0))
