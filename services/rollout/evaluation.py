"""What is measured over a part's trajectories (paper 5.1, 5.4, D.8).

Everything is a function of sums that publishing adds up atomically, so it is live, exact after any crash,
and costs no reading of trajectories. Even the bootstrap needs no more than how many problems were solved at each turn.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from shared.grading import Verdict
from shared.measures import Evaluation, RolloutSummary
from shared.returns import count_answers
from shared.trajectory import Trajectory

_RESAMPLES = 1000

Ints = npt.NDArray[np.int64]


class Intervals(TypedDict):
    """95 % percentile intervals, named as in `Evaluation`."""

    interval: list[list[float]]
    correction_interval: list[float]
    solved_interval_at: list[list[float]]


def count(trajectory: Trajectory) -> dict[str, float]:
    """The sums that one trajectory adds to."""
    sums: dict[str, float] = {"published": 1, f"ending:{trajectory.ending}": 1}
    for turn in trajectory.turns:
        sums[f"verdict:{turn.verdict}"] = sums.get(f"verdict:{turn.verdict}", 0) + 1
    sums["turns"] = len(trajectory.turns)
    sums["tokens"] = sum(len(turn.token_ids) for turn in trajectory.turns)
    if not trajectory.usable:
        return sums
    sums["usable"] = 1
    if trajectory.success:
        sums[f"solved_at:{len(trajectory.turns)}"] = 1
    answered, distinct = count_answers(trajectory.turns)
    if answered:
        sums |= {"answered": 1, "distinct_share": distinct / answered, "distinct": distinct}
        if not trajectory.success:
            sums["distinct_wrong"] = distinct
    return sums


def solved_by(sums: Mapping[str, float], max_turns: int) -> list[int]:
    """Trajectories solved by turn t, for t = 1..max_turns."""
    return list(accumulate(int(sums.get(f"solved_at:{turn}", 0)) for turn in range(1, max_turns + 1)))


def evaluate(
    sums: Mapping[str, float], *, dataset: str, policy: str, stage: int, max_turns: int, seed: int = 0
) -> Evaluation:
    """The measures of one policy on one dataset, from its sums."""
    n = int(sums.get("usable", 0))
    solved = solved_by(sums, max_turns)
    wrong_before = [n, *(n - count for count in solved[:-1])]
    newly = [now - before for now, before in zip(solved, [0, *solved], strict=False)]
    turns = sums.get("turns", 0)
    return Evaluation(
        dataset=dataset,
        policy=policy,
        stage=stage,
        n=n,
        ungraded=int(sums.get("published", 0)) - n,
        multi_at=[_ratio(count, n) for count in solved],
        correction_rate=_ratio(solved[-1] - solved[0], n - solved[0]),
        correction_rate_at=[_ratio(new, wrong) for new, wrong in zip(newly, wrong_before, strict=True)],
        solved_rate_at=[_ratio(count, solved[-1]) for count in solved],
        unique_answers=_ratio(sums.get("distinct_share", 0), sums.get("answered", 0)),
        distinct_answers=_ratio(sums.get("distinct", 0), n),
        distinct_answers_wrong=_ratio(sums.get("distinct_wrong", 0), n - solved[-1]),
        unparsable=_ratio(sums.get(f"verdict:{Verdict.UNPARSABLE}", 0), turns),
        **bound(_resample(newly, n, seed), np.full(_RESAMPLES, n)),
    )


def bound(solved: Ints, counted: Ints) -> Intervals:
    """Intervals from resamples: those solved by each turn, (resamples, turns), and those counted, (resamples)."""
    return Intervals(
        interval=_bound(solved, counted),
        correction_interval=_bound(solved[:, -1:] - solved[:, :1], counted - solved[:, 0])[0],
        solved_interval_at=_bound(solved, solved[:, -1]),
    )


def summarise(sums: Mapping[str, float], *, stage: int, policy: str, max_turns: int, seconds: float) -> RolloutSummary:
    """The sums of one stage's rollouts."""
    n = int(sums.get("usable", 0))
    return RolloutSummary(
        stage=stage,
        policy=policy,
        trajectories=int(sums.get("published", 0)),
        ungraded=int(sums.get("ending:ungraded", 0)),
        failed=int(sums.get("ending:failed", 0)),
        multi_at=[_ratio(count, n) for count in solved_by(sums, max_turns)],
        turns=int(sums.get("turns", 0)),
        generated_tokens=int(sums.get("tokens", 0)),
        verdicts={verdict: int(sums.get(f"verdict:{verdict}", 0)) for verdict in Verdict},
        seconds=seconds,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _resample(newly: list[int], n: int, seed: int) -> Ints:
    """Problems solved by each turn, (resamples, turns); a problem is the turn that solved it."""
    shares = np.array([*newly, n - sum(newly)]) / max(n, 1)
    return np.cumsum(np.random.default_rng(seed).multinomial(n, shares, size=_RESAMPLES)[:, :-1], axis=1)


def _bound(part: Ints, whole: Ints) -> list[list[float]]:
    """Of part / whole, (resamples, measures) / (resamples), over the resamples in which it is defined."""
    defined = whole > 0
    if not defined.any():
        return [[0.0, 0.0] for _ in range(part.shape[1])]
    return np.quantile(part[defined] / whole[defined, None], (0.025, 0.975), axis=0).T.tolist()
