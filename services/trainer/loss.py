"""The weighted loss (paper eqs. 14, 15), with logits for the supervised positions only.

    L = (1/|B|) sum_i w_i (1/|y_i|) sum_{u in y_i} -log pi(u | context_i)

Masks are positions, never token values, so an end token is trained exactly when the sampled tokens hold it. Rows are
padded on the right: under causal attention no token sees the padding behind it, so no mask is needed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.trainer.plan import Example

_WRITTEN_OUT_LENGTH = 512
"""Tokens; its memory grows with their square."""


class SupervisedHead:
    """Narrows a causal language model's output layer to the positions that are supervised.

    Hidden states [rows, length, hidden] come in, logits [1, positions, vocabulary] go out: whatever the model does
    to its logits afterwards is element by element. This works for rows of different lengths, for which
    transformers' `logits_to_keep` (the same positions for all rows) computes too many.
    """

    def __init__(self, model: nn.Module) -> None:
        self._rows = self._columns = torch.empty(0, dtype=torch.long)
        head: nn.Module = model.get_output_embeddings()  # pyright: ignore[reportCallIssue]
        head.register_forward_pre_hook(self._narrow)

    def at(self, rows: Tensor, columns: Tensor) -> None:
        """Positions of the next forward pass, both of shape [positions]."""
        self._rows, self._columns = rows, columns

    def _narrow(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = inputs
        return (hidden[self._rows, self._columns].unsqueeze(0), *rest)


def sum_nll(model: nn.Module, head: SupervisedHead, examples: Sequence[Example], device: torch.device) -> Tensor:
    """sum_u -log p(u | what precedes it) of each example, float32, shape [examples].

    An empty micro-batch runs the model over one token and gives one zero, so that a rank without work takes part
    in the others' collectives.
    """
    if not examples:
        head.at(torch.zeros(1, dtype=torch.long, device=device), torch.zeros(1, dtype=torch.long, device=device))
        nothing = torch.zeros(1, 1, dtype=torch.long, device=device)
        return model(input_ids=nothing, use_cache=False).logits.sum()[None] * 0
    tokens = torch.zeros(len(examples), max(len(example.tokens) for example in examples), dtype=torch.long)
    rows: list[int] = []
    columns: list[int] = []
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
        for start, stop in example.spans:
            rows += [row] * (stop - start)
            columns += range(start, stop)
    row_index, column_index = torch.tensor(rows), torch.tensor(columns)
    targets = tokens[row_index, column_index].to(device)
    row_index = row_index.to(device)
    head.at(row_index, column_index.to(device) - 1)
    choose_attention(model, tokens.shape[1], device)
    logits = model(input_ids=tokens.to(device), use_cache=False).logits
    nll = functional.cross_entropy(logits[0].float(), targets, reduction="none")
    return torch.zeros(len(examples), device=device).index_add(0, row_index, nll)


def choose_attention(model: nn.Module, length: int, device: torch.device) -> None:
    """On a CPU, attention over short sequences is faster written out: the fused one's backward pass is slow there."""
    if device.type == "cpu":
        written_out = length <= _WRITTEN_OUT_LENGTH
        model.set_attn_implementation("eager" if written_out else "sdpa")  # pyright: ignore[reportCallIssue]


def weighted(nll: Tensor, examples: Sequence[Example]) -> Tensor:
    """The examples' part of the batch's loss: sum_i coefficient_i nll_i, a scalar."""
    if not examples:
        return nll.sum()
    return (nll * torch.tensor([example.coefficient for example in examples], device=nll.device)).sum()
