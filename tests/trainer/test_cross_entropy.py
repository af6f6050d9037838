"""The output layer's loss is the ordinary one, and no tensor of the vocabulary's size is made for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from services.trainer.cross_entropy import cross_entropy

POSITIONS, HIDDEN, VOCABULARY = 5, 8, 33


@pytest.mark.parametrize("part", [1, 7, 33, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_it_and_its_gradients_are_those_of_the_logits(
    part: int, dtype: torch.dtype, tolerance: float, trained: bool, before: bool
) -> None:
    torch.manual_seed(part)
    weight = nn.Parameter(torch.randn(VOCABULARY, HIDDEN), requires_grad=trained)
    rows = torch.randn(POSITIONS, HIDDEN, requires_grad=True)
    targets = torch.tensor([0, 32, 6, 7, 6])
    scale = torch.randn(POSITIONS)
    wanted = functional.cross_entropy(rows @ weight.T, targets, reduction="none")
    (wanted @ scale).backward()
    rows_wanted, weight_wanted = rows.grad, weight.grad
    rows.grad, weight.grad = None, torch.ones_like(weight) if before and trained else None
    computed = cross_entropy(rows.to(dtype), weight, targets, part)
    (computed @ scale).backward()

    def check(one: Tensor | None, other: Tensor | None) -> None:
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)

    check(computed, wanted)
    check(rows.grad, rows_wanted)
    check(weight.grad, weight_wanted + before if weight_wanted is not None else None)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.elements = max(self.elements, result.numel() if isinstance(result, Tensor) else 0)
        return result


def test_nothing_as_large_as_the_weight_is_made_where_it_has_a_gradient() -> None:
    weight = nn.Parameter(torch.randn(VOCABULARY, HIDDEN))
    weight.grad = torch.zeros_like(weight)
    rows = torch.randn(POSITIONS, HIDDEN).bfloat16().requires_grad_()
    with Largest() as largest:
        cross_entropy(rows, weight, torch.arange(POSITIONS), part=4).sum().backward()
    assert largest.elements <= max(4 * HIDDEN, POSITIONS * HIDDEN)
    assert weight.grad.any()
