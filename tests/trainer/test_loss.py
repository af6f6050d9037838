"""The loss is the paper's, whatever the split; checked against a full computation in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from services.trainer import attention, loss
from services.trainer.cross_entropy import cross_entropy
from services.trainer.loss import SupervisedModel, weighted
from services.trainer.packing import split_batch
from services.trainer.plan import make_plan
from services.trainer.population import Example
from shared.returns import ReturnSpec
from shared.training import TrainSpec
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


@settings(max_examples=20)
@given(ranks=st.integers(1, 5), budget=st.integers(16, 600), packs=st.booleans(), part=st.sampled_from([3, 1024]))
def test_loss_and_gradient_are_those_of_the_full_computation_for_every_split(
    batch: list[Example], expected: tuple[float, list[Tensor]], ranks: int, budget: int, packs: bool, part: int
) -> None:
    model = make_model().double()
    supervised = SupervisedModel(model, CPU, part)
    supervised.packs = packs
    loss = 0.0
    for share in split_batch(batch, ranks, budget, packs):
        for micro in share:
            contribution = weighted(supervised.sum_nll(micro).double(), micro)
            contribution.backward()
            loss += float(contribution.detach())
    assert loss == pytest.approx(expected[0], rel=1e-5)  # the loss itself is computed in float32
    for computed, wanted in zip(gradients(model), expected[1], strict=True):
        torch.testing.assert_close(computed, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("packs", [True, False])
def test_a_sequence_never_sees_its_neighbours(batch: list[Example], packs: bool) -> None:
    supervised = SupervisedModel(make_model(), CPU)
    supervised.packs = packs
    together = supervised.sum_nll(batch)
    alone = torch.cat([supervised.sum_nll([example]) for example in batch])
    torch.testing.assert_close(together, alone)
    disturbed = [batch[0], *(one.model_copy(update={"tokens": [7] * len(one.tokens)}) for one in batch[1:])]
    torch.testing.assert_close(supervised.sum_nll(disturbed)[0], together[0])


def test_flex_attention_sees_the_same_forest(batch: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU computes, forward only: PyTorch has no backward pass for it on a CPU."""
    supervised = SupervisedModel(make_model(), CPU)
    wanted = supervised.sum_nll(batch)
    monkeypatch.setattr(attention, "_is_written_out", lambda *_: False)
    with torch.no_grad():
        torch.testing.assert_close(supervised.sum_nll(batch), wanted)
    assert supervised.model.config._attn_implementation == "flex_attention"


def test_rows_are_kept_where_a_model_looks_through_a_window(batch: list[Example]) -> None:
    plain, windowed = (
        Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, use_sliding_window=window, sliding_window=8, max_window_layers=1,
            )
        )
        for window in (False, True)
    )  # fmt: skip
    assert SupervisedModel(plain, CPU).packs
    supervised = SupervisedModel(windowed, CPU)
    assert not supervised.packs
    torch.testing.assert_close(supervised.sum_nll(batch)[0], supervised.sum_nll(batch[:1])[0])


def test_a_model_that_caps_its_logits_is_trained_on_the_capped_ones(batch: list[Example]) -> None:
    config = Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config)
    example = batch[0]
    nll = SupervisedModel(model, CPU).sum_nll([example])[0]
    whole = Gemma2ForCausalLM(config)
    whole.load_state_dict(model.state_dict())
    logits = whole(input_ids=torch.tensor([example.tokens])).logits[0].log_softmax(-1)
    wanted = -sum(logits[place - 1, example.tokens[place]] for span in example.spans for place in range(*span))
    torch.testing.assert_close(nll, wanted)


@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss"])
def test_attention_that_caps_or_has_sinks_does_so_at_every_length(kind: str) -> None:
    """PyTorch's fused attention does neither."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, attn_logit_softcapping=0.5, num_local_experts=2, num_experts_per_tok=1,
        initializer_range=0.5, max_position_embeddings=1024,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    long = Example(
        trajectory="", tokens=[3 + place * place % 61 for place in range(600)], spans=[(500, 600)], coefficient=1
    )
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([long.tokens])).logits[0].log_softmax(-1)
        wanted = -sum(logits[place - 1, long.tokens[place]] for place in range(500, 600))
        torch.testing.assert_close(SupervisedModel(model, CPU).sum_nll([long])[0], wanted)


def test_logits_are_computed_for_supervised_positions_only(
    batch: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []

    def count(rows: Tensor, *rest: Any) -> Tensor:
        computed.append(len(rows))
        return cross_entropy(rows, *rest)

    monkeypatch.setattr(loss, "cross_entropy", count)
    SupervisedModel(make_model(), CPU).sum_nll(batch)
    assert computed == [sum(stop - start for example in batch for start, stop in example.spans)]


def test_tokens_outside_the_spans_are_never_targets() -> None:
    """Two sequences that differ only behind their spans have one loss; masks go by position, not by token."""
    model = make_model()
    supervised = SupervisedModel(model, CPU)
    examples = [
        Example(trajectory="", tokens=[1, 5, 2, 9, 2, last], spans=[(2, 5)], coefficient=1.0) for last in (2, 40)
    ]
    first, second = supervised.sum_nll(examples).detach()
    assert float(first) == pytest.approx(float(second))
    unsupervised_end = examples[0].model_copy(update={"spans": [(2, 4)]})
    assert float(supervised.sum_nll([unsupervised_end]).detach()) < float(first), "its end token is not trained"


def test_an_empty_micro_batch_has_no_loss_and_no_gradient() -> None:
    model = make_model()
    weighted(SupervisedModel(model, CPU).sum_nll([]), []).backward()
    assert all(not gradient.any() for gradient in gradients(model))
