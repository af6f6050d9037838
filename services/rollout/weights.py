"""What another choice of gamma, beta, lambda, phi or objective would do to the weights of recorded rollouts.

Pure, and without new rollouts: the figures of a hundred thousand trajectories take some tens of milliseconds.
"""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from services.rollout.archive import Recorded
from services.rollout.outcomes import Flags, Floats, Outcomes
from shared.measures import Composition
from shared.returns import ReturnSpec
from shared.schema import Schema
from shared.training import Objective
from shared.trajectory import ENDINGS

_RETURN_BINS = 40
_LIGHTEST = 1e-6
_BINS_A_DECADE = 4


class Histogram(Schema):
    """`counts[i]` values lie in [edges[i], edges[i+1]), the last bin holds its upper edge too."""

    edges: list[float]
    counts: list[int]


class EffectiveSize(Schema):
    """Effective sample size of a group, (sum w)^2 / sum w^2, over the groups that have weights."""

    mean: float
    min: float
    histogram: Histogram


class OutcomeShare(Schema):
    """The trajectories that were solved at one turn, or never."""

    turn: int | None
    """The turn that solved; absent for never."""
    trajectories: int
    mean_return: float
    weight_share: float
    """Of all weight."""


class WeightChange(Schema):
    """One trajectory's weight under the job's own constants and under those asked for."""

    id: str
    group: int
    k: int
    turns: int
    ending: str
    before: float
    after: float


class Skipped(Schema):
    """What a training with this epsilon would skip."""

    epsilon: float
    trajectories: int
    mass: float
    """Share of all weight that they carry."""


class WeightReport(Schema):
    """The weights of one stage's rollouts under chosen constants."""

    part: str
    policy: str
    returns: ReturnSpec
    objective: Objective
    trajectories: int
    """All that are recorded, those of incomplete groups too."""
    weighted: int
    """Those that carry weight."""
    composition: Composition
    effective_sample_size: EffectiveSize | None
    """Absent where nothing carries weight."""
    weights: Histogram
    returns_histogram: Histogram
    by_turn: list[OutcomeShare]
    skipped: Skipped
    gaining: int
    """Trajectories whose weight grows against the job's own constants."""
    losing: int
    gains: Annotated[list[WeightChange], Field(max_length=100)]
    """The largest growths first."""
    losses: Annotated[list[WeightChange], Field(max_length=100)]


def report_weights(
    job: str,
    recorded: Recorded,
    own: ReturnSpec,
    asked: ReturnSpec,
    objective: Objective = "drift",
    *,
    drop_all_wrong: bool = False,
    epsilon: float = 1e-3,
    examples: int = 10,
) -> WeightReport:
    """Weigh one part anew and compare with the job's own constants."""
    outcomes = recorded.outcomes
    returns = outcomes.score(asked)
    weights = outcomes.weigh(asked, objective, drop_all_wrong=drop_all_wrong)
    known = ~np.isnan(weights)
    skipped = outcomes.find_skipped(weights, epsilon if objective in ("drift", "all_turns") else 0.0)
    total = float(weights[known].sum())
    change = weights - outcomes.weigh(own)
    sizes = outcomes.effective_sizes(weights)
    order = np.argsort(-np.nan_to_num(change), kind="stable")
    return WeightReport(
        part=recorded.part,
        policy=recorded.policy,
        returns=asked,
        objective=objective,
        trajectories=len(outcomes),
        weighted=int(known.sum()),
        composition=outcomes.compose(),
        effective_sample_size=_describe_sizes(sizes, outcomes) if len(sizes) else None,
        weights=_count_weights(weights[known]),
        returns_histogram=_count_returns(returns[outcomes.usable]),
        by_turn=_share_by_turn(outcomes, returns, weights, known),
        skipped=Skipped(
            epsilon=epsilon,
            trajectories=int(skipped.sum()),
            mass=float(weights[skipped].sum()) / total if total else 0.0,
        ),
        gaining=int((change > 1e-9).sum()),
        losing=int((change < -1e-9).sum()),
        gains=[_describe_change(job, recorded, row, change, weights) for row in order[:examples] if change[row] > 1e-9],
        losses=[
            _describe_change(job, recorded, row, change, weights)
            for row in order[::-1][:examples]
            if change[row] < -1e-9
        ],
    )


def _describe_change(job: str, recorded: Recorded, row: int, change: Floats, weights: Floats) -> WeightChange:
    outcomes = recorded.outcomes
    return WeightChange(
        id=recorded.id(job, row),
        group=int(outcomes.group[row]),
        k=int(outcomes.k[row]),
        turns=int(outcomes.turns[row]),
        ending=ENDINGS[outcomes.ending[row]],
        before=float(weights[row] - change[row]),
        after=float(weights[row]),
    )


def _describe_sizes(sizes: Floats, outcomes: Outcomes) -> EffectiveSize:
    most = int(outcomes.group_size.max())
    return EffectiveSize(
        mean=float(sizes.mean()),
        min=float(sizes.min()),
        histogram=_histogram(sizes, np.linspace(1, most, min(most, _RETURN_BINS) + 1) if most > 1 else [1.0, 2.0]),
    )


def _share_by_turn(outcomes: Outcomes, returns: Floats, weights: Floats, known: Flags) -> list[OutcomeShare]:
    total = float(weights[known].sum())
    solved = outcomes.success & known
    turns = [int(turn) for turn in np.unique(outcomes.turns[solved])]
    members = [(turn, solved & (outcomes.turns == turn)) for turn in turns] + [(None, known & ~outcomes.success)]
    return [
        OutcomeShare(
            turn=turn,
            trajectories=int(rows.sum()),
            mean_return=float(returns[rows].mean()),
            weight_share=float(weights[rows].sum()) / total if total else 0.0,
        )
        for turn, rows in members
        if rows.any()
    ]


def _count_weights(weights: Floats) -> Histogram:
    """Bins of equal width in the logarithm; what is lighter than a millionth falls into the first."""
    top = max(float(weights.max(initial=1.0)), 1.0)
    decades = np.log10(top / _LIGHTEST)
    edges = top * 10.0 ** (np.arange(-int(np.ceil(decades * _BINS_A_DECADE)), 1) / _BINS_A_DECADE)
    return _histogram(weights, [0.0, *edges])


def _count_returns(returns: Floats) -> Histogram:
    low, high = (float(returns.min()), float(returns.max())) if len(returns) else (0.0, 1.0)
    return _histogram(returns, np.linspace(low, high if high > low else low + 1, _RETURN_BINS + 1))


def _histogram(values: Floats, edges: npt.ArrayLike) -> Histogram:
    counts, bounds = np.histogram(values, np.asarray(edges, np.float64))
    return Histogram(edges=bounds.tolist(), counts=counts.tolist())
