"""The weighted loss (paper eqs. 14, 15), with logits for the supervised positions only.

    L = (1/|B|) sum_i w_i (1/|y_i|) sum_{u in y_i} -log pi(u | context_i)

Masks are positions, never token values, so an end token is trained exactly when the sampled tokens hold it. A
micro-batch is one forest without padding where the model's attention allows it, else rows padded on the right,
where under causal attention no token looks.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from services.trainer.attention import can_pack, see_forest, see_rows
from services.trainer.cross_entropy import cross_entropy
from services.trainer.forest import grow
from services.trainer.plan import Example


class SupervisedModel:
    """A causal language model that gives -log p of targets, with logits for their positions only.

    The input of the model's output layer is narrowed to these positions. `cross_entropy` takes the layer's place where
    it is a plain matrix product, and holds no logits; a model that does more to them (some cap or scale them), or that
    has an adapter there, gives all logits of these positions.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device, part: int | None = None) -> None:
        """`part`: tokens of the vocabulary at a time; None: as suits the device."""
        self.model = model
        self.device = device
        self._part = part
        self.packs = can_pack(model)
        """Whether micro-batches are computed as forests."""
        self._places = self._targets = torch.zeros(0, dtype=torch.long)
        head = model.get_output_embeddings()
        assert head is not None
        self._head = head
        self._project = head.forward
        self.scores = is_plain(head) and _returns_logits_untouched(model, head, device)
        """Whether the output layer gives -log p in place of logits."""
        head.forward = self._score if self.scores else self._narrow

    def sum_nll(self, examples: Sequence[Example]) -> Tensor:
        """sum_u -log p(u | what precedes it) of each example, float32, shape [examples].

        An empty micro-batch runs the model over one token and gives one zero, so that a rank without work takes part
        in the others' collectives.
        """
        if not examples:
            return self._nll([0], [0], self._rows([[0]])) * 0
        sequences = [example.tokens for example in examples]
        if self.packs:
            forest = grow(sequences)
            paths: Sequence[Sequence[int]] = forest.paths
            inputs = {
                "input_ids": torch.tensor([forest.tokens], device=self.device),
                "position_ids": torch.tensor([forest.positions], device=self.device),
                **see_forest(self.model, forest, self.device),
            }
        else:
            length = max(map(len, sequences))
            paths = [range(row * length, (row + 1) * length) for row in range(len(sequences))]
            inputs = self._rows(sequences)
        places: list[int] = []
        targets: list[int] = []
        owners: list[int] = []
        for owner, (example, path) in enumerate(zip(examples, paths, strict=True)):
            for start, stop in example.spans:
                places += path[start - 1 : stop - 1]
                targets += example.tokens[start:stop]
                owners += [owner] * (stop - start)
        nll = self._nll(places, targets, inputs)
        return torch.zeros(len(examples), device=self.device).index_add(
            0, torch.tensor(owners, device=self.device), nll
        )

    def _rows(self, sequences: Sequence[Sequence[int]]) -> Mapping[str, object]:
        length = max(map(len, sequences))
        see_rows(self.model, length, self.device)
        padded = [[*sequence, *[0] * (length - len(sequence))] for sequence in sequences]
        return {"input_ids": torch.tensor(padded, device=self.device)}

    def _nll(self, places: Sequence[int], targets: Sequence[int], inputs: Mapping[str, object]) -> Tensor:
        """-log p of each target, shape [positions]; `places`: those that predict them, counted through the rows.

        The output layer gives these in place of logits, and the model passes them on.
        """
        self._places = torch.tensor(places, device=self.device)
        self._targets = torch.tensor(targets, device=self.device)
        out: Tensor = self.model(use_cache=False, **inputs).logits
        if self.scores:
            return out
        return functional.cross_entropy(out[0].float(), self._targets, reduction="none")

    def _score(self, hidden: Tensor) -> Tensor:
        rows = self._supervised_rows(hidden)
        if torch.is_autocast_enabled(rows.device.type):
            rows = rows.to(torch.get_autocast_dtype(rows.device.type))
        return cross_entropy(rows, self._head.weight, self._targets, self._part)

    def _narrow(self, hidden: Tensor) -> Tensor:
        rows = self._supervised_rows(hidden)
        if is_plain(self._head):
            return functional.linear(rows, self._head.weight.to(rows.dtype))[None]
        return self._project(rows)[None]

    def _supervised_rows(self, hidden: Tensor) -> Tensor:
        return hidden.flatten(0, 1).index_select(0, self._places)


def is_plain(head: nn.Module) -> bool:
    """Whether an output layer is a matrix product and nothing else; its weights are then cast as they are used."""
    return type(head) is nn.Linear and head.bias is None


def weighted(nll: Tensor, examples: Sequence[Example]) -> Tensor:
    """The examples' part of the batch's loss: sum_i coefficient_i nll_i, a scalar."""
    if not examples:
        return nll.sum()
    return (nll * torch.tensor([example.coefficient for example in examples], device=nll.device)).sum()


@torch.no_grad()
def _returns_logits_untouched(model: PreTrainedModel, head: nn.Module, device: torch.device) -> bool:
    outputs: list[object] = []
    hook = head.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    logits = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False).logits
    hook.remove()
    return logits is outputs[0]
