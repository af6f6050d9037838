"""Concentration of weights: groups of any size from the same trajectories, weighed by the method's own formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.study.concentration import EPSILON, concentrate, regroup
from services.rollout.outcomes import Outcomes
from shared.returns import ReturnSpec, effective_sample_size, score_trajectory, weigh
from shared.trajectory import Trajectory
from tests.trainer.tiny import make_groups

SPEC = ReturnSpec()


def blocks(made: list[Trajectory], k: int) -> list[list[Trajectory]]:
    """By the definition: siblings 0..k-1 of a problem are a group, the next k another."""
    size = made[0].group_size
    groups = sorted({one.group for one in made})
    return [
        [one for one in made if one.group == group and block * k <= one.k < (block + 1) * k]
        for group in groups
        for block in range(size // k)
    ]


@given(st.integers(1, 8), st.integers(1, 9), st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([0.05, 0.1, 1.0]))
def test_every_measure_is_that_of_the_formulas_over_blocks_of_k(groups: int, size: int, k: int, beta: float) -> None:
    if k > size:
        return
    made = make_groups(groups=groups, group_size=size, seed=groups)
    outcomes = regroup(Outcomes.of(made), k)
    wanted = [weigh([score_trajectory(one, SPEC).value for one in block], beta) for block in blocks(made, k)]
    spec = SPEC.model_copy(update={"beta": beta})
    assert outcomes.weigh(spec) == pytest.approx([weight for block in wanted for weight in block])
    assert outcomes.effective_sizes(outcomes.weigh(spec)) == pytest.approx(
        [effective_sample_size(block) for block in wanted]
    )


def test_every_size_up_to_the_recorded_one_and_every_beta_is_told() -> None:
    parts = [Outcomes.of(make_groups(groups=5, group_size=8, seed=seed)) for seed in (1, 2)]
    told = concentrate(parts, SPEC, [0.1, 10.0])
    assert [(one.k, one.beta) for one in told] == [(k, beta) for k in (2, 4, 8) for beta in (0.1, 10.0)]
    for one in told:
        assert one.composition.complete == 2 * 5 * 8 // one.k
        assert 1 / one.k - 1e-9 <= one.effective_share <= 1
        assert 1 / one.k - 1e-9 <= one.top_share <= 1
        assert one.skipped_mass < EPSILON
    sharp, flat = told[-2:]
    assert sharp.effective_share < flat.effective_share and sharp.top_share > flat.top_share
    # Larger groups are more often mixed (table 8).
    mixed = [one.composition.mixed / one.composition.complete for one in told if one.beta == 0.1]
    assert mixed == sorted(mixed)


def test_a_size_that_the_first_rollouts_do_not_have_is_of_those_that_do() -> None:
    parts = [Outcomes.of(make_groups(groups=groups, group_size=size)) for groups, size in ((5, 4), (3, 8), (2, 3))]
    told = concentrate(parts, SPEC, [0.1], epsilon=0.3)
    assert [(one.k, one.composition.complete) for one in told] == [(2, 10), (3, 2), (4, 5), (8, 3)]
    assert {one.epsilon for one in told} == {0.3}
    narrow = concentrate(parts, SPEC, [0.1])
    assert sum(one.skipped_share for one in told) > sum(one.skipped_share for one in narrow)


def test_siblings_that_fill_no_whole_group_are_dropped() -> None:
    outcomes = regroup(Outcomes.of(make_groups(groups=3, group_size=5)), 2)
    assert len(outcomes) == 3 * 4
    assert np.unique(outcomes.group).tolist() == list(range(6))
    assert outcomes.complete.all()


def test_without_rollouts_there_is_nothing_to_tell() -> None:
    assert concentrate([], SPEC, [0.1]) == []
