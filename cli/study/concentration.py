"""How far the weights of a group concentrate on few of its trajectories, by group size K and by beta. Pure.

Proposition 7 of the paper says that a smaller beta makes the normalised weights less stable; table 8 that small groups
are often all correct or all wrong. Both are read off recorded rollouts: N siblings are independent, so each block of K
of them is a group of K.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from services.rollout.outcomes import Outcomes
from shared.measures import Composition
from shared.returns import ReturnSpec
from shared.schema import Schema

EPSILON = 1e-3
"""What is skipped is told for the trainer's default."""


class Concentration(Schema):
    """The weights of all groups of one size under one beta."""

    k: int
    beta: float
    composition: Composition
    """Of the groups; the same for each beta."""
    effective_share: float
    """Mean of effective sample size / K."""
    top_share: float
    """Mean of the largest weight / K: the share of the group's weight that one trajectory has."""
    skipped_share: float
    """Share of the trajectories that weigh less than `EPSILON` of their group together."""
    skipped_mass: float
    """Share of all weight that these carry."""


def concentrate(rollouts: Sequence[Outcomes], returns: ReturnSpec, betas: Sequence[float]) -> list[Concentration]:
    """For every power of two up to the group size, and every beta; empty without rollouts."""
    if not rollouts:
        return []
    size = int(rollouts[0].group_size.max())
    sizes = [1 << power for power in range(1, size.bit_length()) if 1 << power <= size]
    return [
        _measure([regroup(one, k) for one in rollouts], k, returns.model_copy(update={"beta": beta}))
        for k in sorted({*sizes, size})
        for beta in betas
    ]


def regroup(outcomes: Outcomes, k: int) -> Outcomes:
    """The same trajectories as groups of `k`: siblings 0..k-1, the next k and so on; what is left over is dropped."""
    blocks = int(outcomes.group_size.max()) // k
    kept = outcomes.k < blocks * k
    group = outcomes.group * blocks + outcomes.k // k
    cut = {name: getattr(outcomes, name)[kept] for name in ("ending", "turns", "answered", "distinct", "verdicts")}
    return replace(
        outcomes,
        group=group[kept],
        k=(outcomes.k % k)[kept],
        group_size=np.full(int(kept.sum()), k, np.int32),
        **cut,
    )


def _measure(parts: Sequence[Outcomes], k: int, returns: ReturnSpec) -> Concentration:
    compositions, effective, top, skipped = [], [], [], []
    weight = lost = 0.0
    for outcomes in parts:
        weights = outcomes.weigh(returns)
        left_out = outcomes.find_skipped(weights, EPSILON)
        known = np.nan_to_num(weights)
        compositions.append(outcomes.compose())
        effective.append(outcomes.effective_sizes(weights) / k)
        top.append((np.maximum.reduceat(known, outcomes.starts) / k)[outcomes.weighable])
        skipped.append(left_out[~np.isnan(weights)])
        weight, lost = weight + float(known.sum()), lost + float(known[left_out].sum())
    return Concentration(
        k=k,
        beta=returns.beta,
        composition=Composition(
            **{name: sum(getattr(one, name) for one in compositions) for name in Composition.model_fields}
        ),
        effective_share=_mean(effective),
        top_share=_mean(top),
        skipped_share=_mean(skipped),
        skipped_mass=lost / weight if weight else 0.0,
    )


def _mean(parts: Sequence[np.ndarray]) -> float:
    values = np.concatenate(parts)
    return float(values.mean()) if values.size else 0.0
