"""-log p of targets straight from hidden states: the logits of an output layer are never there all at once.

The vocabulary is taken part by part, forward and, computed again, backward. A part's weights are cast as they are used
and its gradient is added to the weight's, so that no copy of either is made as large as the vocabulary.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

PARTS = {"cpu": 1 << 12, "cuda": 1 << 13}
"""Tokens of the vocabulary at a time: few enough for a cache, enough to keep threads or a GPU busy."""


def cross_entropy(rows: Tensor, weight: Tensor, targets: Tensor, part: int | None = None) -> Tensor:
    """-log softmax(rows @ weight.T)[target], float32, shape [positions].

    Args:
        rows: [positions, hidden], in the dtype of the matrix products.
        weight: [vocabulary, hidden], in any dtype.
        targets: [positions], token ids.
        part: how many tokens of the vocabulary at a time; None: as suits the device.
    """
    return cast(Tensor, _CrossEntropy.apply(rows, weight, targets, part or PARTS[rows.device.type]))


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, part: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        normaliser = torch.full((len(rows),), -torch.inf, device=rows.device)
        chosen = torch.empty_like(normaliser)
        for start, weights in _parts(weight, part, rows.dtype):
            logits = (rows @ weights.T).float()
            normaliser = torch.logaddexp(normaliser, logits.logsumexp(1))
            here = _within(targets, start, weights)
            chosen[here] = logits[here, targets[here] - start]
        ctx.save_for_backward(rows, weight, targets, normaliser)
        ctx.part = part
        return normaliser - chosen

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight, targets, normaliser = ctx.saved_tensors
        made = None
        of_weight = weight.grad if weight.is_leaf else None  # added to in place, where there is one
        if of_weight is None and ctx.needs_input_grad[1]:
            of_weight = made = torch.zeros_like(weight)
        of_rows = torch.zeros_like(rows, dtype=torch.float32)
        for start, weights in _parts(weight, ctx.part, rows.dtype):
            of_logits = (rows @ weights.T).float().sub_(normaliser[:, None]).exp_()
            here = _within(targets, start, weights)
            of_logits[here, targets[here] - start] -= 1
            of_logits = of_logits.mul_(gradient[:, None]).to(rows.dtype)
            of_rows += of_logits @ weights
            if of_weight is not None:
                of_weight[start : start + len(weights)] += of_logits.T @ rows
        return of_rows.to(rows.dtype), made, None, None


def _parts(weight: Tensor, part: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """First token and weights of each part, in `dtype`."""
    for start in range(0, len(weight), part):
        yield start, weight[start : start + part].to(dtype)


def _within(targets: Tensor, start: int, weights: Tensor) -> Tensor:
    """Positions whose targets are in a part."""
    return ((targets >= start) & (targets < start + len(weights))).nonzero().flatten()
