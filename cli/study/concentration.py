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
"""What would be skipped is told for this one where a study skips nothing: the trainer's default."""


class Concentration(Schema):
    """The weights of all groups of one size under one beta."""

    k: int
    beta: float
    epsilon: float
    """What `skipped_share` and `skipped_mass` are told for."""
    composition: Composition
    """Of the groups; the same for each beta."""
    effective_share: float
    """Mean of effective sample size / K."""
    top_share: float
    """Mean of the largest weight / K: the share of the group's weight that one trajectory has."""
    skipped_share: float
    """Share of the trajectories that weigh less than `epsilon` of their group together."""
    skipped_mass: float
    """Share of all weight that these carry."""


def concentrate(
    rollouts: Sequence[Outcomes], returns: ReturnSpec, betas: Sequence[float], epsilon: float = EPSILON
) -> list[Concentration]:
    """For every K that there is, and every beta; empty without rollouts.

    Rollouts of K give K and the powers of two below it. Where several give the same, those that come first do.
    """
    by_size: dict[int, list[Outcomes]] = {}
    for one in rollouts:
        by_size.setdefault(int(one.group_size.max()), []).append(one)
    parts: dict[int, list[Outcomes]] = {}
    for size, recorded in by_size.items():
        for k in (*(1 << power for power in range(1, size.bit_length())), size):
            parts.setdefault(k, recorded)
    return [
        _measure([regroup(one, k) for one in parts[k]], k, returns.model_copy(update={"beta": beta}), epsilon)
        for k in sorted(parts)
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


def _measure(parts: Sequence[Outcomes], k: int, returns: ReturnSpec, epsilon: float) -> Concentration:
    compositions, effective, top, skipped = [], [], [], []
    weight = lost = 0.0
    for outcomes in parts:
        weights = outcomes.weigh(returns)
        left_out = outcomes.find_skipped(weights, epsilon)
        known = np.nan_to_num(weights)
        compositions.append(outcomes.compose())
        effective.append(outcomes.effective_sizes(weights) / k)
        top.append((np.maximum.reduceat(known, outcomes.starts) / k)[outcomes.weighable])
        skipped.append(left_out[~np.isnan(weights)])
        weight, lost = weight + float(known.sum()), lost + float(known[left_out].sum())
    return Concentration(
        k=k,
        beta=returns.beta,
        epsilon=epsilon,
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
