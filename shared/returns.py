"""Returns and importance weights of trajectories (paper eqs. 10, 12, 13). Pure: values in, values out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from shared.grading import Verdict
from shared.schema import Schema
from shared.trajectory import Trajectory, Turn

Gamma = Annotated[float, Field(gt=0, le=1)]
Beta = Annotated[float, Field(gt=0, le=1000)]
Penalty = Annotated[float, Field(ge=0, le=1000)]
"""lambda or phi."""


class ReturnSpec(Schema):
    """The constants of the return and of its weight."""

    gamma: Gamma = 0.9
    """Discount for each further turn."""
    beta: Beta = 0.1
    """Temperature of the tilt exp(R / beta)."""
    repeat_penalty: Penalty = 0.5
    """lambda: weight of the repeated-answers term."""
    format_penalty: Penalty = 0.1
    """phi: cost of each turn without a parsed answer; in the authors' script, not in the paper. 0 is the paper."""


@dataclass(frozen=True)
class Return:
    """The parts of R(tau) (paper eq. 12); `value` is their sum."""

    discounted_success: float
    repeat: float
    format: float

    @property
    def value(self) -> float:
        return self.discounted_success - self.repeat - self.format


def count_answers(turns: Sequence[Turn]) -> tuple[int, int]:
    """(A, U): the turns with a parsed answer, and the distinct ones among these up to the cheap normal form."""
    parsed = [turn.normal_form or turn.answer for turn in turns if turn.verdict is not Verdict.UNPARSABLE]
    return len(parsed), len(set(parsed))


def score(turns: Sequence[Turn], success: bool, spec: ReturnSpec) -> Return:
    """R = gamma^(T-1) [success] - lambda (1 - U/A) - phi F, the middle term 0 when A = 0 (paper eq. 12)."""
    answered, distinct = count_answers(turns)
    return Return(
        discounted_success=spec.gamma ** (len(turns) - 1) if success else 0.0,
        repeat=spec.repeat_penalty * (1 - distinct / answered) if answered else 0.0,
        format=spec.format_penalty * (len(turns) - answered),
    )


def score_trajectory(trajectory: Trajectory, spec: ReturnSpec) -> Return:
    """The return of one trajectory."""
    return score(trajectory.turns, trajectory.success, spec)


def weigh(returns: Sequence[float], beta: float) -> list[float]:
    """w_k = exp(R_k / beta) / mean_j exp(R_j / beta) over one complete group (paper eqs. 10, 13); mean 1, shape [K].

    The maximum is subtracted first, so that no beta overflows.
    """
    if not returns:
        raise ValueError("a group has at least one trajectory")
    top = max(returns)
    tilts = [math.exp((value - top) / beta) for value in returns]
    mean = math.fsum(tilts) / len(tilts)
    return [tilt / mean for tilt in tilts]


def effective_sample_size(weights: Sequence[float]) -> float:
    """(sum w)^2 / sum w^2, between 1 and K."""
    total = math.fsum(weights)
    return total * total / math.fsum(weight * weight for weight in weights)
