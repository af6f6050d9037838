"""The loss is the paper's, whatever the split; checked against a full computation in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM

from services.trainer.loss import SupervisedHead, sum_nll, weighted
from services.trainer.plan import Example, make_plan, split_batch
from shared.job import TrainSpec
from shared.returns import ReturnSpec
from tests.trainer.tiny import VOCABULARY, make_groups, make_model

CPU = torch.device("cpu")


def reference(model: LlamaForCausalLM, examples: list[Example]) -> tuple[float, list[Tensor]]:
    """Loss and gradients in float64 with the logits of every position of every sequence by itself."""
    model = model.double()
    total = torch.zeros((), dtype=torch.float64)
    for example in examples:
        logits = model(input_ids=torch.tensor([example.tokens])).logits[0]
        for start, stop in example.spans:
            for place in range(start, stop):
                total = total - example.coefficient * logits[place - 1].log_softmax(-1)[example.tokens[place]]
    total.backward()
    return float(total.detach()), gradients(model)


def gradients(model: LlamaForCausalLM) -> list[Tensor]:
    return [p.grad.double() if p.grad is not None else torch.zeros_like(p).double() for p in model.parameters()]


@pytest.fixture(scope="module")
def batch() -> list[Example]:
    return make_plan(make_groups(groups=6), ReturnSpec(), TrainSpec(batch_size=16, epsilon=0)).batch(0)


@pytest.fixture(scope="module")
def expected(batch: list[Example]) -> tuple[float, list[Tensor]]:
    return reference(make_model(), batch)


@settings(max_examples=12, deadline=None)
@given(ranks=st.integers(1, 5), budget=st.integers(16, 600))
def test_loss_and_gradient_are_those_of_the_full_computation_for_every_split(
    batch: list[Example], expected: tuple[float, list[Tensor]], ranks: int, budget: int
) -> None:
    model = make_model().double()
    head = SupervisedHead(model)
    loss = 0.0
    for share in split_batch(batch, ranks, budget):
        for micro in share:
            part = weighted(sum_nll(model, head, micro, CPU).double(), micro)
            part.backward()
            loss += float(part.detach())
    assert loss == pytest.approx(expected[0], rel=1e-5)  # the loss itself is computed in float32
    for computed, wanted in zip(gradients(model), expected[1], strict=True):
        torch.testing.assert_close(computed, wanted, rtol=1e-4, atol=1e-6)


def test_a_sequence_never_sees_its_neighbours(batch: list[Example]) -> None:
    model = make_model()
    head = SupervisedHead(model)
    together = sum_nll(model, head, batch, CPU)
    alone = torch.cat([sum_nll(model, head, [example], CPU) for example in batch])
    torch.testing.assert_close(together, alone)
    disturbed = [batch[0], *(one.model_copy(update={"tokens": [7] * len(one.tokens)}) for one in batch[1:])]
    torch.testing.assert_close(sum_nll(model, head, disturbed, CPU)[0], together[0])


def test_logits_are_computed_for_supervised_positions_only(batch: list[Example]) -> None:
    model = make_model()
    head = SupervisedHead(model)
    shapes: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda _module, _inputs, logits: shapes.append(tuple(logits.shape)))
    sum_nll(model, head, batch, CPU)
    supervised = sum(stop - start for example in batch for start, stop in example.spans)
    assert shapes == [(1, supervised, VOCABULARY)]


def test_tokens_outside_the_spans_are_never_targets() -> None:
    """Two sequences that differ only behind their spans have one loss; masks go by position, not by token."""
    model = make_model()
    head = SupervisedHead(model)
    examples = [
        Example(trajectory="", tokens=[1, 5, 2, 9, 2, last], spans=[(2, 5)], coefficient=1.0) for last in (2, 40)
    ]
    first, second = sum_nll(model, head, examples, CPU).detach()
    assert float(first) == pytest.approx(float(second))
    unsupervised_end = examples[0].model_copy(update={"spans": [(2, 4)]})
    assert float(sum_nll(model, head, [unsupervised_end], CPU).detach()) < float(first), "its end token is not trained"


def test_an_empty_micro_batch_has_no_loss_and_no_gradient() -> None:
    model = make_model()
    weighted(sum_nll(model, SupervisedHead(model), [], CPU), []).backward()
    assert all(not gradient.any() for gradient in gradients(model))
