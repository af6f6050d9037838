"""What one episode promises, whatever the policy and the verifier say."""

import asyncio
from array import array
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.rollout.engines.engine import Answer, ContextExceeded, EngineDown
from services.rollout.episode import Episode, run_episode
from services.rollout.prompts import Message
from shared.errors import Unavailable
from shared.grading import Verdict, VerifyResult

OPENING = [{"role": "user", "content": "Q"}]
FEEDBACK = "Think again."
DECIDING = [Verdict.INCORRECT, Verdict.UNPARSABLE]


def play(verdicts: Sequence[Verdict | Exception], max_turns: int) -> tuple[Episode, list[list[Message]]]:
    """The episode whose t-th answer gets the t-th verdict, and the contexts that the policy saw."""
    contexts: list[list[Message]] = []

    async def sample(context: Sequence[Message]) -> Answer:
        contexts.append(list(context))
        number = len(contexts)
        return Answer(array("i", [1] * number), array("i", [number, 2]), f"answer {number}", "stop")

    async def grade(response: str) -> VerifyResult:
        verdict = verdicts[len(contexts) - 1]
        if isinstance(verdict, Exception):
            raise verdict
        return VerifyResult(id="x", verdict=verdict, extracted=response, ms=0)

    return asyncio.run(run_episode(OPENING, FEEDBACK, max_turns, sample, grade)), contexts


@given(st.lists(st.sampled_from(DECIDING), min_size=8, max_size=8), st.integers(0, 8), st.integers(1, 8))
def test_it_stops_at_the_first_success_or_at_the_last_turn(
    wrong: list[Verdict], solved_at: int, max_turns: int
) -> None:
    verdicts = [*wrong[:solved_at], Verdict.CORRECT, *wrong]
    episode, _ = play(verdicts, max_turns)
    assert len(episode.turns) == min(solved_at + 1, max_turns)
    assert episode.ending == ("solved" if solved_at < max_turns else "max_turns")
    assert [turn.verdict for turn in episode.turns] == verdicts[: len(episode.turns)]


def test_each_turn_sees_every_answer_before_it_and_the_feedback() -> None:
    _, contexts = play([Verdict.INCORRECT] * 3, 3)
    assert contexts[2] == [
        *OPENING,
        {"role": "assistant", "content": "answer 1"},
        {"role": "user", "content": FEEDBACK},
        {"role": "assistant", "content": "answer 2"},
        {"role": "user", "content": FEEDBACK},
    ]


def test_the_engines_token_ids_are_kept_for_each_turn() -> None:
    episode, _ = play([Verdict.INCORRECT, Verdict.CORRECT], 5)
    assert [(turn.prompt_token_ids, turn.token_ids) for turn in episode.turns] == [([1], [1, 2]), ([1, 1], [2, 2])]


def test_a_graders_fault_is_never_a_wrong_answer() -> None:
    for fault in (Verdict.TIMEOUT, Verdict.ERROR, Unavailable("no verifier")):
        episode, contexts = play([Verdict.INCORRECT, fault, Verdict.CORRECT], 5)
        assert episode.ending == "ungraded"
        assert len(contexts) == 2


def test_a_context_that_is_too_long_ends_the_episode_with_that_reason() -> None:
    answers = iter([Answer(array("i", [1]), array("i", [1]), "a", "stop")])

    async def sample(_: Sequence[Message]) -> Answer:
        for answer in answers:
            return answer
        raise ContextExceeded("too long")

    async def grade(_: str) -> VerifyResult:
        return VerifyResult(id="x", verdict=Verdict.INCORRECT, ms=0)

    episode = asyncio.run(run_episode(OPENING, FEEDBACK, 5, sample, grade))
    assert (episode.ending, episode.reason, len(episode.turns)) == ("context", "too long", 1)


def test_an_engine_that_stays_away_fails_the_trajectory_with_its_reason() -> None:
    async def sample(_: Sequence[Message]) -> Answer:
        raise EngineDown("gone")

    async def grade(_: str) -> VerifyResult:
        raise AssertionError("there is nothing to grade")

    episode = asyncio.run(run_episode(OPENING, FEEDBACK, 5, sample, grade))
    assert (episode.ending, episode.reason) == ("failed", "gone")
