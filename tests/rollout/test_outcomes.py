"""The columns give what the formulas give for one trajectory after the other."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.outcomes import Outcomes
from services.trainer.population import assign_weights, choose_skipped
from shared.grading import Verdict
from shared.returns import ReturnSpec, effective_sample_size, score_trajectory
from shared.shards import write_shard
from shared.training import Objective
from shared.trajectory import ENDINGS, Ending, Problem, Trajectory, Turn

OBJECTIVES: tuple[Objective, ...] = ("drift", "all_turns", "uniform", "star", "single_turn")

answers = st.sampled_from(["A", "B", "", None])
turns = st.tuples(st.sampled_from(list(Verdict)), answers, answers)
rows = st.tuples(st.lists(turns, max_size=4), st.sampled_from(ENDINGS))
groups = st.lists(st.tuples(st.lists(rows, min_size=1, max_size=4), st.booleans()), max_size=5)
"""By group: its trajectories, and whether one is missing."""


Told = Sequence[tuple[Verdict, str | None, str | None]]
Group = tuple[Sequence[tuple[Told, Ending]], bool]


def build(drawn: Sequence[Group]) -> list[Trajectory]:
    def turn(verdict: Verdict, answer: str | None, normal: str | None) -> Turn:
        return Turn(
            prompt_token_ids=[], token_ids=[1], text="", finish_reason="stop",
            verdict=verdict, answer=answer, normal_form=normal,
        )  # fmt: skip

    return [
        Trajectory(
            job="j", phase="rollout", stage=0, policy="base", group=3 * place, k=k, group_size=len(members) + missing,
            problem=Problem(id="1", problem="?", answer="B"), turns=[turn(*one) for one in told],
            ending=ending, engine="e", model="m",
        )
        for place, (members, missing) in enumerate(drawn)
        for k, (told, ending) in enumerate(members)
    ]  # fmt: skip


@given(drawn=groups)
def test_a_shards_columns_are_those_of_its_trajectories(
    drawn: Sequence[Group], tmp_path_factory: pytest.TempPathFactory
) -> None:
    trajectories = build(drawn)
    read = Outcomes.read(write_shard(tmp_path_factory.mktemp("part"), trajectories))
    for name, values in vars(Outcomes.of(trajectories)).items():
        np.testing.assert_array_equal(getattr(read, name), values, err_msg=name)


@given(
    drawn=groups,
    returns=st.builds(
        ReturnSpec,
        gamma=st.floats(0.1, 1),
        beta=st.floats(0.01, 10),
        repeat_penalty=st.floats(0, 2),
        format_penalty=st.floats(0, 2),
    ),
    objective=st.sampled_from(OBJECTIVES),
    drop=st.booleans(),
)
def test_returns_weights_and_skipping_are_the_trainers(
    drawn: Sequence[Group], returns: ReturnSpec, objective: Objective, drop: bool
) -> None:
    trajectories = build(drawn)
    outcomes = Outcomes.of(trajectories)
    weights = outcomes.weigh(returns, objective, drop_all_wrong=drop)
    skipped = outcomes.find_skipped(weights, 1e-3)
    scores = outcomes.score(returns)
    sizes: list[float] = []
    by_group: dict[int, list[int]] = defaultdict(list)
    for row, one in enumerate(trajectories):
        assert scores[row] == pytest.approx(score_trajectory(one, returns).value)
        by_group[one.group].append(row)
    for members in by_group.values():
        group = [trajectories[row] for row in members]
        known: dict[int, float] = {}
        whole = len(group) == group[0].group_size and all(one.usable for one in group)
        if whole and not (drop and not any(one.success for one in group)):
            known = assign_weights(group, objective, returns)
        assert {k for k, row in enumerate(members) if not math.isnan(weights[row])} == set(known)
        for k, weight in known.items():
            assert weights[members[k]] == pytest.approx(weight)
        if known:
            sizes.append(effective_sample_size(list(known.values())))
            left_out = choose_skipped(list(known.values()), 1e-3)
            mass = sum(weights[row] for row in members if skipped[row])
            assert mass == pytest.approx(sum(list(known.values())[place] for place in left_out))
    assert outcomes.effective_sizes(weights) == pytest.approx(sizes)


@given(drawn=groups)
def test_groups_are_counted_by_outcome_once_they_are_complete(drawn: Sequence[Group]) -> None:
    composition = Outcomes.of(build(drawn)).compose()
    complete = [members for members, missing in drawn if not missing]
    good = [members for members in complete if all(ending not in ("ungraded", "failed") for _, ending in members)]
    solved = [[ending == "solved" for _, ending in members] for members in good]
    assert composition.complete == len(good)
    assert composition.spoiled == len(complete) - len(good)
    assert composition.all_correct == sum(all(one) for one in solved)
    assert composition.all_wrong == sum(not any(one) for one in solved)
    assert composition.mixed == sum(any(one) and not all(one) for one in solved)


def test_shards_in_any_order_join_by_group_and_k(tmp_path: Path) -> None:
    member: tuple[Told, Ending] = ([(Verdict.CORRECT, "A", "A")], "solved")
    trajectories = build([([member, member], False)] * 4)
    late, early = trajectories[4:], trajectories[:4]
    joined, order = Outcomes.join([Outcomes.of(late), Outcomes.of(early)])
    assert list(zip(joined.group, joined.k, strict=True)) == [(one.group, one.k) for one in trajectories]
    assert [([*late, *early])[place] for place in order] == trajectories
