"""The measures are those of the definitions, whatever the trajectories (paper 5.1, 5.4, D.8)."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.evaluation import count, evaluate
from shared.grading import Verdict
from shared.measures import Evaluation
from shared.trajectory import Problem, Trajectory, Turn

MAX_TURNS = 5
PROBLEM = Problem(id="p", kind="choice", problem="Q", answer="A", choices=["x", "y", "z"])

wrong_answers = st.one_of(st.none(), st.sampled_from("BCD"))
episodes = st.tuples(st.lists(wrong_answers, min_size=MAX_TURNS, max_size=MAX_TURNS), st.integers(1, MAX_TURNS + 1))
"""(wrong answers by turn, None for an unparsable one; the turn that solves, MAX_TURNS + 1 for none)."""


def make_turn(answer: str | None, verdict: Verdict) -> Turn:
    return Turn(
        prompt_token_ids=[1],
        token_ids=[5, 2],
        text=answer or "?",
        finish_reason="stop",
        verdict=verdict,
        answer=answer,
        normal_form=answer,
    )


def make_trajectory(wrong: list[str | None], solved_at: int, group: int = 0) -> Trajectory:
    turns = [
        make_turn(answer, Verdict.INCORRECT if answer else Verdict.UNPARSABLE)
        for answer in wrong[: min(solved_at - 1, MAX_TURNS)]
    ]
    if solved_at <= MAX_TURNS:
        turns.append(make_turn("A", Verdict.CORRECT))
    return Trajectory(
        job="j",
        phase="evaluate",
        stage=0,
        policy="base",
        group=group,
        k=0,
        group_size=1,
        problem=PROBLEM,
        turns=turns,
        ending="solved" if solved_at <= MAX_TURNS else "max_turns",
        engine="e",
        model="m",
    )


def measure(trajectories: list[Trajectory]) -> Evaluation:
    sums: Counter[str] = Counter()
    for trajectory in trajectories:
        sums.update(count(trajectory))
    return evaluate(sums, dataset="d", policy="base", stage=0, max_turns=MAX_TURNS)


@given(st.lists(episodes, min_size=1, max_size=30))
def test_measures_follow_their_definitions(drawn: list[tuple[list[str | None], int]]) -> None:
    measured = measure([make_trajectory(wrong, solved_at) for wrong, solved_at in drawn])
    n = len(drawn)
    for turn in range(1, MAX_TURNS + 1):
        solved = sum(solved_at <= turn for _, solved_at in drawn)
        before = sum(solved_at <= turn - 1 for _, solved_at in drawn)
        assert measured.multi_at[turn - 1] == pytest.approx(solved / n)
        expected = (solved - before) / (n - before) if n > before else 0
        assert measured.correction_rate_at[turn - 1] == pytest.approx(expected)
    shares = []
    for wrong, solved_at in drawn:
        parsed = [answer for answer in wrong[: min(solved_at - 1, MAX_TURNS)] if answer]
        parsed += ["A"] if solved_at <= MAX_TURNS else []
        if parsed:
            shares.append(len(set(parsed)) / len(parsed))
    assert measured.unique_answers == pytest.approx(sum(shares) / len(shares) if shares else 0)


@given(st.lists(episodes, min_size=1, max_size=30))
def test_the_interval_holds_the_measure_and_narrows_to_it_when_all_agree(
    drawn: list[tuple[list[str | None], int]],
) -> None:
    measured = measure([make_trajectory(wrong, solved_at) for wrong, solved_at in drawn])
    bounded = [
        *zip(measured.multi_at, measured.interval, strict=True),
        *zip(measured.solved_rate_at, measured.solved_interval_at, strict=True),
        (measured.correction_rate, measured.correction_interval),
    ]
    for value, (low, high) in bounded:
        assert low - 1e-9 <= value <= high + 1e-9
        if value in (0, 1):
            assert low == high == value


def test_a_trajectory_that_could_not_be_graded_is_left_out_and_counted() -> None:
    spoiled = make_trajectory(["B"] * 5, 3).model_copy(update={"ending": "ungraded"})
    measured = measure([spoiled, make_trajectory(["B"] * 5, 1)])
    assert (measured.n, measured.ungraded, measured.multi_at[0]) == (1, 1, 1.0)


def test_the_intervals_of_ratios_are_those_of_the_problems_resampled_one_by_one() -> None:
    turns = np.repeat([1, 2, 5, MAX_TURNS + 1], [30, 20, 10, 40])
    measured = measure([make_trajectory(["B"] * 5, int(turn)) for turn in turns])
    drawn = np.random.default_rng(1).choice(turns, size=(4000, len(turns)))
    solved = np.stack([(drawn <= turn).sum(axis=1) for turn in range(1, MAX_TURNS + 1)], axis=1)
    corrected = (solved[:, -1] - solved[:, 0]) / (len(turns) - solved[:, 0])
    assert measured.correction_interval == pytest.approx(np.quantile(corrected, (0.025, 0.975)), abs=0.02)
    for place, bounds in enumerate(measured.solved_interval_at):
        share = solved[:, place] / solved[:, -1]
        assert bounds == pytest.approx(np.quantile(share, (0.025, 0.975)), abs=0.02)


def test_no_problem_at_all_measures_zero() -> None:
    assert measure([]).multi_at == [0.0] * MAX_TURNS
