"""What evaluated policies measure on one dataset: each method over its seeds, and methods against each other. Pure.

A problem that could not be graded under some policy counts for none of them, so that all are measured on the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cli.study.statistics import (
    Estimate,
    Resampling,
    SolvedAt,
    correction_rates,
    estimate_average,
    estimate_difference,
    estimate_multi_at,
    solved_by,
)
from cli.study.study_file import BASE, DRIFT, SFT_5TURN
from services.rollout.outcomes import Flags, Outcomes
from shared.measures import Correction
from shared.schema import Schema


class Measures(Correction):
    """One method on one dataset; means over its seeds, intervals over problems and seeds."""

    seeds: list[int]
    """Empty for the base, which has none."""
    multi_at_by_seed: list[list[float]]


class Difference(Schema):
    """multi@k of one method less another's, paired by problem and seed."""

    method: str
    other: str
    seeds: list[int]
    """That both have."""
    multi_at: list[Estimate]
    multi_at_by_seed: list[list[float]]


class Average(Schema):
    """multi@max_turns, mean over the datasets, as in the paper's table 1."""

    methods: dict[str, Estimate]
    minus_sft_5turn: dict[str, Estimate]
    """Paired by problem and seed."""


class DatasetResults(Schema):
    """Every method on one dataset."""

    problems: int
    left_out: int
    """Problems that could not be graded under some policy; they count for none."""
    methods: dict[str, Measures]
    differences: list[Difference]


@dataclass(frozen=True)
class Policy:
    """One evaluated policy; rows of its outcomes are problems."""

    method: str
    seed: int | None
    outcomes: Outcomes


def compare(
    policies: Sequence[Policy], max_turns: int, others: Sequence[str] = (BASE, SFT_5TURN, DRIFT)
) -> DatasetResults:
    """Every method's measures, and the differences of all to each of `others`, of which the first needs none."""
    counted = find_counted(policies)
    by_method = _group(policies)
    problems = int(counted.sum())
    return DatasetResults(
        problems=problems,
        left_out=len(counted) - problems,
        methods={method: measure(mine, counted, max_turns) for method, mine in by_method.items()},
        differences=[
            difference
            for place, other in enumerate(others)
            for method in by_method
            if other in by_method and method not in others[: place + 1]
            if (difference := _differ(by_method[method], by_method[other], counted, max_turns))
        ],
    )


def average(datasets: Sequence[Sequence[Policy]], max_turns: int) -> Average:
    """Over datasets, of the same policies on each."""
    counted = [find_counted(policies) for policies in datasets]
    by_method = [_group(policies) for policies in datasets]

    def solve(policies: Sequence[Policy], place: int) -> npt.NDArray[np.float64]:
        return solved_by(_solved_at(policies, counted[place]), max_turns)

    methods: dict[str, Estimate] = {}
    differences: dict[str, Estimate] = {}
    for method in by_method[0]:
        mine = [groups[method] for groups in by_method]
        methods[method] = estimate_average([solve(policies, place) for place, policies in enumerate(mine)])
        pairs = [_pair(groups[method], groups.get(SFT_5TURN, [])) for groups in by_method]
        if method not in (BASE, SFT_5TURN) and all(pairs):
            differences[method] = estimate_average(
                [
                    solve([one for one, _ in pair], place) - solve([other for _, other in pair], place)
                    for place, pair in enumerate(pairs)
                ]
            )
    return Average(methods=methods, minus_sft_5turn=differences)


def find_counted(policies: Sequence[Policy]) -> Flags:
    """The problems that could be graded under every policy."""
    return np.logical_and.reduce([policy.outcomes.usable for policy in policies])


def measure(policies: Sequence[Policy], counted: Flags, max_turns: int) -> Measures:
    """One method over its seeds."""
    solved_at = _solved_at(policies, counted)
    resampling = Resampling.draw(*solved_at.shape)
    turns = range(1, max_turns + 1)
    estimates = [estimate_multi_at(solved_at, k, resampling) for k in turns]
    answered, distinct = (
        np.array([getattr(policy.outcomes, name)[counted] for policy in policies]) for name in ("answered", "distinct")
    )
    first, last = estimates[0].mean, estimates[-1].mean
    return Measures(
        seeds=[policy.seed for policy in policies if policy.seed is not None],
        multi_at=[one.mean for one in estimates],
        interval=[[one.low, one.high] for one in estimates],
        multi_at_by_seed=[[float(solved_by(row, k).mean()) for k in turns] for row in solved_at],
        correction_rate=_ratio(last - first, 1 - first),
        correction_rate_at=correction_rates(solved_at, max_turns),
        solved_rate_at=[_ratio(one.mean, last) for one in estimates],
        unique_answers=_mean((distinct / np.maximum(answered, 1))[answered > 0]),
        distinct_answers=_mean(distinct),
        distinct_answers_wrong=_mean(distinct[solved_at == 0]),
    )


def _group(policies: Sequence[Policy]) -> dict[str, list[Policy]]:
    by_method: dict[str, list[Policy]] = {}
    for policy in policies:
        by_method.setdefault(policy.method, []).append(policy)
    return by_method


def _pair(mine: Sequence[Policy], theirs: Sequence[Policy]) -> list[tuple[Policy, Policy]]:
    """By seed; the base, which has none, goes with every seed."""
    others = {policy.seed: policy for policy in theirs}
    return [(policy, other) for policy in mine if (other := others.get(policy.seed) or others.get(None))]


def _differ(mine: Sequence[Policy], theirs: Sequence[Policy], counted: Flags, max_turns: int) -> Difference | None:
    """None where the two have no seed in common."""
    pairs = _pair(mine, theirs)
    if not pairs:
        return None
    one, other = (_solved_at(policies, counted) for policies in zip(*pairs, strict=True))
    resampling = Resampling.draw(*one.shape)
    turns = range(1, max_turns + 1)
    by_turn = [(solved_by(one, k) - solved_by(other, k)).mean(axis=1) for k in turns]
    return Difference(
        method=mine[0].method,
        other=theirs[0].method,
        seeds=[policy.seed for policy, _ in pairs if policy.seed is not None],
        multi_at=[estimate_difference(one, other, k, resampling) for k in turns],
        multi_at_by_seed=np.transpose(by_turn).tolist(),
    )


def _solved_at(policies: Sequence[Policy], counted: Flags) -> SolvedAt:
    """The turn that solved each problem, 0 where none did, shape [policies, problems]."""
    return np.array(
        [np.where(policy.outcomes.success, policy.outcomes.turns, 0)[counted] for policy in policies], np.int16
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _mean(values: npt.NDArray[np.floating] | npt.NDArray[np.integer]) -> float:
    return float(values.mean()) if values.size else 0.0
