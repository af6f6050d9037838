"""The grader asks for verdicts; where there can be none, it says so."""

import asyncio
from collections.abc import Callable

import pytest

from services.rollout import grader as grading
from services.rollout.grader import Grader
from shared.errors import DriftError, Unavailable
from shared.grading import MAX_TEXT, Verdict, VerifyItem, VerifyResult
from shared.trajectory import Problem

PROBLEM = Problem(id="1", kind="math", problem="1 + 1?", answer="2")


async def verify(items: list[VerifyItem]) -> list[VerifyResult]:
    return [VerifyResult(id=item.id, verdict=Verdict.CORRECT, ms=0) for item in items]


async def test_an_answer_longer_than_the_verifier_takes_is_ungraded_with_its_reason() -> None:
    grader = Grader(verify)
    with pytest.raises(DriftError, match=str(MAX_TEXT)):
        await grader.grade(PROBLEM, "2" * (MAX_TEXT + 1))
    assert (await grader.grade(PROBLEM, "2" * MAX_TEXT)).verdict is Verdict.CORRECT


@pytest.mark.parametrize(
    "spoil", [lambda results: 1 / 0, lambda results: results[:-1]], ids=["raises", "one-verdict-too-few"]
)
async def test_no_turn_waits_for_ever_for_a_verifier_that_breaks(
    spoil: Callable[[list[VerifyResult]], list[VerifyResult]],
) -> None:
    async def break_off(items: list[VerifyItem]) -> list[VerifyResult]:
        return spoil(await verify(items))

    grader = Grader(break_off)
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*(grader.grade(PROBLEM, "2") for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DriftError] * 3
    assert "Grading failed" in str(outcomes[0])


async def test_a_verifier_that_is_away_is_waited_for_and_known_to_be_away() -> None:
    seen: list[float] = []

    async def come_back(items: list[VerifyItem]) -> list[VerifyResult]:
        seen.append(grader.away_s)
        if len(seen) < 3:
            raise Unavailable("restarting")
        return await verify(items)

    grader = Grader(come_back)
    assert (await grader.grade(PROBLEM, "2")).verdict is Verdict.CORRECT
    assert seen[0] == 0 < seen[1] < seen[2]
    assert grader.away_s == 0


async def test_a_verifier_that_stays_away_is_given_up_and_may_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "PATIENCE_S", 0.05)

    async def stay_away(_: list[VerifyItem]) -> list[VerifyResult]:
        await asyncio.sleep(0.01)
        raise Unavailable("gone")

    grader = Grader(stay_away)
    with pytest.raises(Unavailable, match="gone"):
        await grader.grade(PROBLEM, "2")
    assert grader.away_s == 0


@pytest.mark.parametrize("fault", [DriftError("The verifier answered 401"), ValueError("not HTTP")])
async def test_a_verifier_that_comes_back_with_another_fault_is_away_no_more(fault: Exception) -> None:
    faults = [Unavailable("restarting"), fault]

    async def refuse(_: list[VerifyItem]) -> list[VerifyResult]:
        raise faults.pop(0)

    grader = Grader(refuse)
    with pytest.raises(DriftError, match=str(fault)):
        await grader.grade(PROBLEM, "2")
    assert grader.away_s == 0
