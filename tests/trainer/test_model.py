"""Promises of computing in a dtype: the gradient is the same, whatever is cast, recomputed, tied or sparse."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.trainer.loss import SupervisedModel, weighted
from services.trainer.model import computing_in
from services.trainer.orders import Dtype
from services.trainer.population import Example
from tests.trainer.tiny import make_model

EXAMPLES = [
    Example(trajectory=str(k), tokens=[1, 5, 6, 7, 8, 10 + k], spans=[(3, 6)], coefficient=1.0) for k in range(4)
]


def gradient(dtype: Dtype, *, recompute: bool, tied: bool) -> Tensor:
    """Of two passes; afterwards the model is as it was."""
    model = make_model().train()
    if not tied:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    supervised = SupervisedModel(model, torch.device("cpu"))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = [id(parameter) for parameter in model.parameters()]
    with computing_in(model, dtype):
        for _ in range(2):
            weighted(supervised.sum_nll(EXAMPLES), EXAMPLES).backward()
    assert [id(parameter) for parameter in model.parameters()] == before
    assert not model.get_input_embeddings().sparse
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) == len(before) and all(one.dtype == torch.float32 and not one.is_sparse for one in gradients)
    return torch.cat([one.flatten() for one in gradients])


@pytest.mark.parametrize("tied", [True, False])
def test_the_gradient_is_the_same_in_every_way_of_computing_it(tied: bool) -> None:
    wanted = gradient("float32", recompute=False, tied=tied)
    assert torch.equal(gradient("float32", recompute=True, tied=tied), wanted)
    halved = gradient("bfloat16", recompute=False, tied=tied)
    assert functional.cosine_similarity(halved, wanted, dim=0) > 0.9998
    assert (halved - wanted).norm() < 0.03 * wanted.norm()
    assert torch.equal(gradient("bfloat16", recompute=True, tied=tied), halved)
