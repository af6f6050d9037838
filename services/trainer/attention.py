"""Attention within a forest: every node sees its ancestors and itself, whatever stands around it.

On a GPU this is FlexAttention, which skips the blocks that nobody sees. On a CPU it is written out over blocks of
consecutive nodes: all of a block's ancestors before the block are ancestors of its first node, so a block's keys are
these and the block itself, few even where the forest is wide. One long sequence alone needs neither: it is causal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import pad
from transformers import AttentionInterface, PreTrainedModel

from services.trainer.forest import Forest

_BLOCK = 128
"""Nodes; measured: 64 to 256 are about as fast."""
_WRITTEN_OUT_LENGTH = 512
"""Tokens of a sequence alone, up to which attention is written out on a CPU: the memory grows with their square, and
PyTorch's fused attention has a slow backward pass there for short sequences."""


@dataclass(frozen=True)
class Blocks:
    """Which keys each block of queries looks at."""

    keys: list[Tensor]
    """For each block its nodes, each once: ancestors, then the block itself."""
    padded: Tensor
    """The same with node 0 as padding, shape [blocks, keys]."""
    bias: Tensor
    """0 where a query sees a key, else -inf, float32, shape [blocks, 1, 1, _BLOCK, keys]."""


def can_pack(model: PreTrainedModel) -> bool:
    """Whether the model's attention is the plain one in all layers, so that a forest can take its place."""
    config = model.config.get_text_config()
    return (
        bool(model._supports_attention_backend)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and not (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True))
        and not getattr(config, "attn_logit_softcapping", None)
        and not getattr(config, "attention_dropout", 0.0)
    )


def see_forest(model: PreTrainedModel, forest: Forest, device: torch.device) -> Mapping[str, object]:
    """Arguments of the model's forward pass under which its tokens see their ancestors only."""
    if forest.is_chain and (device.type != "cpu" or len(forest.tokens) > _WRITTEN_OUT_LENGTH):
        _use(model, "sdpa")
        return {}
    if _is_written_out(device):
        _use(model, "forest")
        return {"blocks": cut_blocks(forest)}
    _use(model, "flex_attention")
    ends = torch.tensor(forest.ends, device=device)
    count = len(forest.tokens)
    mask = create_block_mask(lambda _b, _h, i, j: (j <= i) & (i < ends[j]), None, None, count, count, str(device))
    return {"attention_mask": mask}


def see_rows(model: PreTrainedModel, length: int, device: torch.device) -> None:
    """Plain causal attention, for one sequence a row with the padding on the right, where nothing looks."""
    short = _is_written_out(device) and length <= _WRITTEN_OUT_LENGTH
    caps = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)  # which fused attention would ignore
    _use(model, "eager" if short or caps or not model._supports_sdpa else "sdpa")


def cut_blocks(forest: Forest) -> Blocks:
    """The blocks of a forest."""
    count = len(forest.tokens)
    keys = [
        [node for node in range(start) if forest.ends[node] > start] + list(range(start, min(start + _BLOCK, count)))
        for start in range(0, count, _BLOCK)
    ]
    width = max(map(len, keys))
    padded = torch.tensor([block + [0] * (width - len(block)) for block in keys])
    real = torch.tensor([[True] * len(block) + [False] * (width - len(block)) for block in keys])
    queries = torch.arange(len(keys) * _BLOCK).view(len(keys), _BLOCK, 1)
    ends = torch.tensor(forest.ends)[padded]
    seen = (padded[:, None] <= queries) & (queries < ends[:, None]) & real[:, None]
    seen |= queries >= count  # rows behind the last node are cut off again; they must only be finite
    bias = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    return Blocks([torch.tensor(block) for block in keys], padded, bias[:, None, None])


@torch.compiler.disable
def attend_in_forest(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    dropout: float = 0.0,
    *,
    blocks: Blocks,
    **unused: Any,
) -> tuple[Tensor, None]:
    """transformers' attention contract: query [1, heads, nodes, d], key and value [1, fewer heads, nodes, d];
    out [1, nodes, heads, d]. Refuses what it does not compute."""
    if (
        dropout
        or attention_mask is not None
        or any(unused.get(name) is not None for name in ("softcap", "s_aux", "position_bias", "sliding_window"))
    ):
        raise NotImplementedError("attention in a forest has no dropout, mask, soft cap, sink, bias or window")
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    return _BlockAttention.apply(query[0], key[0], value[0], blocks, scaling)[None], None


class _BlockAttention(torch.autograd.Function):
    """Softmax(q k' + bias) v, one matrix product for all blocks. Heads that share keys are rows of one matrix.

    Gradients of keys are added block by block in a fixed order: PyTorch's own gather adds them in any order.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scaling: float) -> Tensor:
        heads, count, _ = query.shape
        number, keys = blocks.padded.shape
        shared = key.shape[0]
        queries = _split(query, number, shared) * scaling
        memory = torch.cat((key, value)).transpose(0, 1)[blocks.padded]  # [blocks, keys, 2 shared, d]
        keys_, values = memory.transpose(1, 2).split(shared, 1)
        scores = queries @ keys_.transpose(2, 3)
        shape = (number, shared, heads // shared, _BLOCK, keys)
        weights = (scores.view(shape) + blocks.bias.to(scores.dtype)).softmax(-1).view_as(scores)
        ctx.save_for_backward(queries, keys_, values, weights)
        ctx.blocks, ctx.scaling, ctx.count = blocks, scaling, count
        return _join(weights @ values, heads)[:count]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        queries, keys, values, weights = ctx.saved_tensors
        number, shared = keys.shape[:2]
        heads = grad.shape[1]
        grads = _split(grad.transpose(0, 1), number, shared)
        of_weights = grads @ values.transpose(2, 3)
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_queries = _join(of_scores @ keys, heads)[: ctx.count] * ctx.scaling
        of_memory = torch.cat((of_scores.transpose(2, 3) @ queries, weights.transpose(2, 3) @ grads), 1).transpose(1, 2)
        sums = torch.zeros(ctx.count, *of_memory.shape[2:], dtype=grad.dtype)
        for block, nodes in enumerate(ctx.blocks.keys):
            sums[nodes] += of_memory[block, : len(nodes)]
        of_key, of_value = sums.transpose(0, 1).split(shared)
        return of_queries.transpose(0, 1), of_key, of_value, None, None


def _split(rows: Tensor, number: int, shared: int) -> Tensor:
    """[heads, nodes, d] -> [blocks, shared, heads / shared * _BLOCK, d], padded with zeros."""
    heads, count, width = rows.shape
    rows = pad(rows, (0, 0, 0, number * _BLOCK - count)).view(shared, heads // shared, number, _BLOCK, width)
    return rows.permute(2, 0, 1, 3, 4).reshape(number, shared, -1, width)


def _join(blocks: Tensor, heads: int) -> Tensor:
    """[blocks, shared, heads / shared * _BLOCK, d] -> [blocks * _BLOCK, heads, d]."""
    return blocks.view(len(blocks), heads, _BLOCK, -1).transpose(1, 2).reshape(len(blocks) * _BLOCK, heads, -1)


def _is_written_out(device: torch.device) -> bool:
    return device.type == "cpu"


def _use(model: PreTrainedModel, implementation: str) -> None:
    if model.config._attn_implementation != implementation:
        model.set_attn_implementation(implementation)


AttentionInterface.register("forest", attend_in_forest)
