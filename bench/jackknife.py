"""Intervals of figures that are no means, from what they would be without each of a few blocks of the data."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from shared.schema import Schema

BLOCKS = 4
STUDENT = 3.182
"""The 97.5 % quantile of Student's t with `BLOCKS` - 1 degrees of freedom."""


class Figure(Schema):
    """A measured value with its 95 % interval; None where too few data leave it undefined."""

    value: float | None
    low: float | None
    high: float | None


def jackknife(estimate: Callable[[Sequence[int]], Mapping[str, float]]) -> dict[str, Figure]:
    """What `estimate` says of all blocks, with intervals from what it says without each of them."""
    blocks = range(BLOCKS)
    without = [estimate([block for block in blocks if block != left]) for left in blocks]
    figures: dict[str, Figure] = {}
    for name, value in estimate(blocks).items():
        others = torch.tensor([one[name] for one in without], dtype=torch.float64)
        margin = STUDENT * math.sqrt((BLOCKS - 1) * float(others.var(correction=0)))
        bounds = (value, value - margin, value + margin)
        value, low, high = (bound if math.isfinite(bound) else None for bound in bounds)
        figures[name] = Figure(value=value, low=low, high=high)
    return figures
