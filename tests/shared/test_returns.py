"""Promises of returns and weights (paper eqs. 10, 12, 13)."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.grading import Verdict
from shared.returns import ReturnSpec, count_answers, effective_sample_size, score, weigh
from shared.trajectory import Turn

returns = st.lists(st.floats(-10, 10), min_size=1, max_size=64)
betas = st.floats(1e-3, 100)
specs = st.builds(
    ReturnSpec,
    gamma=st.floats(0.1, 1),
    repeat_penalty=st.floats(0, 2),
    format_penalty=st.floats(0, 2),
)


def make_turn(verdict: Verdict, answer: str | None) -> Turn:
    return Turn(
        prompt_token_ids=[1],
        token_ids=[2],
        text="",
        finish_reason="stop",
        verdict=verdict,
        answer=None if verdict is Verdict.UNPARSABLE else answer,
    )


episodes = st.lists(
    st.builds(make_turn, st.sampled_from([Verdict.INCORRECT, Verdict.UNPARSABLE]), st.sampled_from("ABC")),
    min_size=0,
    max_size=6,
).map(lambda turns: [*turns, make_turn(Verdict.CORRECT, "D")])


@given(returns, betas)
def test_weights_are_not_negative_and_have_mean_one(values: list[float], beta: float) -> None:
    weights = weigh(values, beta)
    assert all(weight >= 0 for weight in weights)
    assert math.isclose(math.fsum(weights) / len(weights), 1, rel_tol=1e-9)


@given(returns, betas, st.floats(-5, 5))
def test_weights_do_not_change_when_every_return_is_shifted(values: list[float], beta: float, shift: float) -> None:
    shifted = weigh([value + shift for value in values], beta)
    assert shifted == pytest.approx(weigh(values, beta), rel=1e-6 / min(beta, 1), abs=1e-9)


@given(returns, betas)
def test_a_better_trajectory_never_weighs_less(values: list[float], beta: float) -> None:
    by_return = sorted(zip(values, weigh(values, beta), strict=True))
    assert all(low[1] <= high[1] for low, high in pairwise(by_return))


@given(returns, st.floats(0.5, 100))
def test_weights_are_the_papers_formula(values: list[float], beta: float) -> None:
    tilts = [math.exp(value / beta) for value in values]
    assert weigh(values, beta) == pytest.approx([tilt * len(tilts) / sum(tilts) for tilt in tilts], rel=1e-9)


@given(returns, betas)
def test_effective_sample_size_lies_between_one_and_the_groups_size(values: list[float], beta: float) -> None:
    assert 1 - 1e-9 <= effective_sample_size(weigh(values, beta)) <= len(values) * (1 + 1e-9)


@given(episodes, specs)
def test_an_earlier_success_never_returns_less(turns: list[Turn], spec: ReturnSpec) -> None:
    worth = score(turns, True, spec).discounted_success
    assert worth == pytest.approx(spec.gamma ** (len(turns) - 1))
    assert worth >= score([turns[0], *turns], True, spec).discounted_success


@given(episodes, specs)
def test_only_repeats_and_missing_answers_cost(turns: list[Turn], spec: ReturnSpec) -> None:
    parts = score(turns, True, spec)
    answered, distinct = count_answers(turns)
    assert parts.repeat == pytest.approx(spec.repeat_penalty * (1 - distinct / answered))
    assert parts.format == pytest.approx(spec.format_penalty * sum(t.verdict is Verdict.UNPARSABLE for t in turns))
    assert parts.value == parts.discounted_success - parts.repeat - parts.format


@given(st.integers(1, 5), specs)
def test_an_episode_without_any_answer_has_no_repeats(turns: int, spec: ReturnSpec) -> None:
    parts = score([make_turn(Verdict.UNPARSABLE, None)] * turns, False, spec)
    assert parts.repeat == 0 and parts.value == pytest.approx(-spec.format_penalty * turns)


def test_equal_normal_forms_are_one_distinct_answer() -> None:
    turns = [
        make_turn(Verdict.INCORRECT, written).model_copy(update={"normal_form": "1/2"}) for written in ("0.5", "1/2")
    ]
    assert count_answers(turns) == (2, 1)


def test_the_papers_example_values() -> None:
    turns = [make_turn(Verdict.INCORRECT, "A"), make_turn(Verdict.INCORRECT, "A"), make_turn(Verdict.CORRECT, "B")]
    assert score(turns, True, ReturnSpec()).value == pytest.approx(0.9**2 - 0.5 * (1 - 2 / 3))


def test_an_empty_group_has_no_weights() -> None:
    with pytest.raises(ValueError, match="at least one"):
        weigh([], 0.1)
