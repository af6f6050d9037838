"""Model FLOPs of a step and the share of the hardware's peak that they are (MFU, as in the PaLM paper's appendix B).

Counted is what the sequences of a batch need, each by itself, with logits at the supervised positions only; what is
saved by sharing prefixes or spent on padding shows as a higher or lower utilisation. The peak is the data sheet's for
the GPUs listed here; elsewhere, CPUs included, it is the rate of a large matrix product measured on the spot.
"""

import time
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from services.trainer.orders import Dtype
from services.trainer.population import Example
from services.trainer.ranks import Ranks

_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "L4": 121e12,
}
"""Dense bfloat16 FLOP/s."""
_PROBE = 1024
_PROBES = 4


class FlopMeter:
    """What one training's steps cost, on these ranks."""

    def __init__(self, model: PreTrainedModel, dtype: Dtype, ranks: Ranks) -> None:
        head, lookup = model.get_output_embeddings(), model.get_input_embeddings()  # pyright: ignore[reportCallIssue]
        assert head is not None
        apart = {id(parameter) for module in (head, lookup) for parameter in module.parameters()}
        self._per_token = sum(_per_use(one) for one in model.parameters() if id(one) not in apart)
        self._per_logits = sum(map(_per_use, head.parameters()))
        config = model.config.get_text_config()
        width = config.num_attention_heads * (getattr(config, "head_dim", None) or 0) or config.hidden_size
        self._per_square = 6 * width * config.num_hidden_layers
        self._peak = _peak(dtype, ranks.device) * ranks.size

    def flops(self, examples: Iterable[Example]) -> float:
        """Forward and backward pass over these sequences."""
        total = 0.0
        for example in examples:
            supervised = sum(stop - start for start, stop in example.spans)
            length = len(example.tokens)
            total += self._per_token * length + self._per_logits * supervised + self._per_square * length**2
        return total

    def utilisation(self, examples: Iterable[Example], seconds: float) -> float:
        """MFU of a step that took `seconds`."""
        return self.flops(examples) / seconds / self._peak


def _per_use(parameter: torch.Tensor) -> int:
    """A multiplication and an addition forward, as many for the input's gradient, and for its own if it has one."""
    return (6 if parameter.requires_grad else 4) * parameter.numel()


def _peak(dtype: Dtype, device: torch.device) -> float:
    if device.type == "cuda" and dtype == "bfloat16":
        name = torch.cuda.get_device_name(device)
        known = [peak for part, peak in _PEAKS.items() if part in name.replace("-", " ").split()]
        if known:
            return known[0]
    matrix = torch.ones(_PROBE, _PROBE, device=device, dtype=getattr(torch, dtype))
    fastest = float("inf")
    for _ in range(_PROBES):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * _PROBE**3 / fastest
