"""Grades turns with the verifier: requests of one moment travel together, and a grader's fault is tried once more.

A verifier that is away is waited for; until it is back no new group begins (`worker.py`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from shared.errors import DriftError, Unavailable
from shared.grading import MAX_BATCH, MAX_TEXT, VerifyItem, VerifyResult
from shared.telemetry import get_logger
from shared.tracing import span
from shared.trajectory import Problem

Verify = Callable[[list[VerifyItem]], Awaitable[list[VerifyResult]]]
_Waiting = tuple[VerifyItem, asyncio.Future[VerifyResult]]

PATIENCE_S = 900.0
"""A verifier that is away for longer fails the job."""
LINGER_S = 0.01
"""How long the first of a batch waits for company: nothing beside a turn's seconds, and a tenth of the requests."""
log = get_logger(__name__)


class Grader:
    """Collects the items of concurrent episodes into batches."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._waiting: list[_Waiting] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._serial = 0
        self._away_since: float | None = None

    @property
    def away_s(self) -> float:
        """How long the verifier has not answered; 0 while it does."""
        return 0.0 if self._away_since is None else time.monotonic() - self._away_since

    async def grade(self, problem: Problem, response: str) -> VerifyResult:
        """The verdict on one response; `timeout` and `error` are asked for once more, then stand.

        Raises `DriftError` where there is none.
        """
        if len(response) > MAX_TEXT:
            raise DriftError(
                f"The answer has {len(response)} characters; the verifier takes {MAX_TEXT}.",
                remedy="Ask for fewer tokens with sampling.max_tokens.",
            )
        with span("grade"):
            result = await self._ask(problem, response)
            return result if result.verdict.decides else await self._ask(problem, response)

    async def _ask(self, problem: Problem, response: str) -> VerifyResult:
        self._serial += 1
        item = VerifyItem(
            id=str(self._serial), kind=problem.kind, response=response, answer=problem.answer, choices=problem.choices
        )
        future: asyncio.Future[VerifyResult] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._waiting) == 1:
            self._begin(self._send_after_linger())
        return await future

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send_after_linger(self) -> None:
        await asyncio.sleep(LINGER_S)
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), MAX_BATCH):
            self._begin(self._send(waiting[start : start + MAX_BATCH]))

    async def _send(self, batch: Sequence[_Waiting]) -> None:
        try:
            graded = list(zip(batch, await self._ask_patiently([item for item, _ in batch]), strict=True))
        except DriftError as error:
            _refuse(batch, error)
            return
        except Exception as error:
            # E.g. a reply that is not HTTP. Nothing else would ever end the episodes that wait.
            log.exception("grading_broken", items=len(batch))
            _refuse(batch, DriftError(f"Grading failed: {error!r}"))
            return
        for (_, future), result in graded:
            if not future.done():
                future.set_result(result)

    async def _ask_patiently(self, items: list[VerifyItem]) -> list[VerifyResult]:
        begun = time.monotonic()
        try:
            while True:
                try:
                    return await self._verify(items)
                except Unavailable as error:
                    if self._away_since is None:
                        log.warning("verifier_away", error=str(error))
                        self._away_since = begun
                    if time.monotonic() - begun > PATIENCE_S:
                        raise
        finally:
            # Whatever it answers, and where it never does: else no group would ever begin, and nobody ask again.
            self._away_since = None


def _refuse(batch: Sequence[_Waiting], error: DriftError) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
