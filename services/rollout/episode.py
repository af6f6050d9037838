"""The episode: answer, verdict, feedback, again (paper section 3; `docs/architecture.md`).

One coroutine a trajectory and no barrier: it goes on the moment its verdict is in.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from services.rollout.engines.engine import Answer, ContextExceeded
from services.rollout.prompts import Message
from shared.errors import DriftError
from shared.grading import Verdict, VerifyResult
from shared.trajectory import Ending, Turn

Sample = Callable[[Sequence[Message]], Awaitable[Answer]]
"""Draws one answer of the policy, given the context."""

Grade = Callable[[str], Awaitable[VerifyResult]]
"""Grades one response against the problem's gold answer."""


@dataclass
class Episode:
    """What happened in one trajectory, and how it ended."""

    played: list[tuple[Answer, VerifyResult]] = field(default_factory=list[tuple[Answer, VerifyResult]])
    ending: Ending = "max_turns"
    reason: str | None = None

    @property
    def turns(self) -> list[Turn]:
        """As they are published; made only then, since token ids in lists are large."""
        return [_turn(answer, result) for answer, result in self.played]


async def run_episode(
    opening: Sequence[Message], feedback: str, max_turns: int, sample: Sample, grade: Grade
) -> Episode:
    """Play one episode to its end. Never raises for a fault of the engine or the verifier: that is an ending."""
    episode = Episode()
    context = list(opening)
    while len(episode.played) < max_turns:
        try:
            answer = await sample(context)
        except ContextExceeded as error:
            return _end(episode, "context", error)
        except DriftError as error:
            return _end(episode, "failed", error)
        try:
            verdict = await grade(answer.text)
        except DriftError as error:
            return _end(episode, "ungraded", error)
        episode.played.append((answer, verdict))
        if not verdict.verdict.decides:
            episode.ending, episode.reason = "ungraded", verdict.detail or f"verdict {verdict.verdict}"
            return episode
        if verdict.verdict is Verdict.CORRECT:
            episode.ending = "solved"
            return episode
        context += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": feedback}]
    return episode


def _end(episode: Episode, ending: Ending, error: DriftError) -> Episode:
    # Without a single answer there is nothing to weigh or train on, whatever the cause.
    episode.ending = ending if episode.played or ending != "context" else "failed"
    episode.reason = str(error)
    return episode


def _turn(answer: Answer, result: VerifyResult) -> Turn:
    return Turn(
        prompt_token_ids=answer.prompt_token_ids.tolist(),
        token_ids=answer.token_ids.tolist(),
        text=answer.text,
        finish_reason=answer.finish_reason,
        verdict=result.verdict,
        answer=result.extracted,
        normal_form=result.normal_form,
        method=result.method,
    )
