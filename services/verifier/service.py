"""Grading of batches: cache, duplicates graded once, tiers in the server, computer algebra in the workers.

No item delays another: the server's own tiers take bounded steps and give way to the event loop between items.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from services.verifier.grading.tiers import Decision, Deferred, Extracted, choices_of, decide, extract, golds_of
from services.verifier.metrics import Metrics
from services.verifier.pool import Expired, WorkerPool
from services.verifier.settings import VerifierSettings
from services.verifier.task import Task
from shared.errors import Overloaded
from shared.grading import Verdict, VerifyItem, VerifyResult
from shared.telemetry import get_logger

Key = tuple[str, tuple[str, ...], str | None, str | None, tuple[str, ...] | None]
LOG = get_logger(__name__)
STARVED = 0.7
"""Share of a deadline that a worker must have computed for its timeout to say something of the task."""
SLICE_SECONDS = 0.002
"""How long the server grades before it lets the event loop turn."""


class Verifier:
    """Grades items; one for each server process."""

    def __init__(self, settings: VerifierSettings, pool: WorkerPool, metrics: Metrics) -> None:
        self._settings = settings
        self._pool = pool
        self._metrics = metrics
        self._cache: OrderedDict[Key, tuple[Decision, float]] = OrderedDict()
        """Decisions, each with the longest deadline that it holds for: more time is worth another try."""
        self._twins: dict[tuple[Key, int], asyncio.Task[Decision]] = {}
        self._in_flight = 0

    @property
    def ready(self) -> bool:
        """Whether every tier can be reached."""
        return self._pool.alive

    async def verify(self, items: Sequence[VerifyItem]) -> list[VerifyResult]:
        """One result for each item, in order; raises `Overloaded` where the server holds too many items already."""
        with self._admit(len(items)):
            found: list[Graded | Unsettled] = []
            turn = time.perf_counter()
            for item in items:
                found.append(self._grade(item))
                if time.perf_counter() - turn > SLICE_SECONDS:
                    await asyncio.sleep(0)
                    turn = time.perf_counter()
            # The workers begin when the server's own tiers are through: they would take its cores from it.
            pending = [each if isinstance(each, Graded) else self._begin(each) for each in found]
            graded = [each if isinstance(each, Graded) else await each for each in pending]
            results = [each.result(item) for item, each in zip(items, graded, strict=True)]
        self._metrics.count([(item.kind, result) for item, result in zip(items, results, strict=True)])
        return results

    @contextmanager
    def _admit(self, count: int) -> Generator[None]:
        if self._in_flight and self._in_flight + count > self._settings.verifier_queue:
            self._metrics.refusals.inc()
            raise Overloaded(
                f"{self._in_flight} items are being graded, and {count} more do not fit.", remedy="Try again later."
            )
        self._in_flight += count
        self._metrics.in_flight.set(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= count
            self._metrics.in_flight.set(self._in_flight)

    def _grade(self, item: VerifyItem) -> "Graded | Unsettled":
        start = time.perf_counter()
        extracted = extract(item)
        key = (item.kind, golds_of(item), extracted.answer, item.letters, choices_of(item))
        deadline_ms = item.deadline_ms or self._settings.verifier_deadline_ms
        if key in self._cache:
            known, longest_ms = self._cache[key]
            if deadline_ms <= longest_ms:
                self._cache.move_to_end(key)
                self._metrics.cache_hits.inc()
                return _graded(extracted, known, start, cached=True)
        try:
            decision = decide(item, extracted)
        except Exception as error:
            LOG.exception("grading.failed", item=item.id, kind=item.kind)
            return _graded(extracted, Decision(Verdict.ERROR, None, f"The grader failed: {error!r}."[:200]), start)
        if isinstance(decision, Decision):
            self._remember(key, decision)
            return _graded(extracted, decision, start)
        return Unsettled(key, decision, deadline_ms, extracted, start)

    def _begin(self, unsettled: "Unsettled") -> asyncio.Task["Graded"]:
        """Ask a worker, or wait with whoever asked it the same before."""
        pair = (unsettled.key, unsettled.deadline_ms)
        twin = self._twins.get(pair)
        if twin is not None:
            self._metrics.cache_hits.inc()
        else:
            twin = asyncio.create_task(self._settle(*pair, unsettled.deferred))
            self._twins[pair] = twin
            twin.add_done_callback(lambda _: self._twins.pop(pair, None))
        return asyncio.create_task(self._await_twin(unsettled.extracted, twin, unsettled.start))

    async def _await_twin(self, extracted: Extracted, twin: "asyncio.Task[Decision]", start: float) -> "Graded":
        return _graded(extracted, await asyncio.shield(twin), start)

    async def _settle(self, key: Key, deadline_ms: int, deferred: Deferred) -> Decision:
        with self._metrics.symbolic.track_inprogress():
            outcome = await self._pool.run(Task(pairs=list(deferred.pairs)), deadline_ms / 1000, heavy=deferred.heavy)
        if isinstance(outcome, Expired):
            decision = Decision(Verdict.TIMEOUT, None, f"Not decided within {deadline_ms} ms.")
            if outcome.computed * 1000 >= STARVED * deadline_ms:
                self._remember(key, decision, deadline_ms)
            return decision
        if outcome.equal is None:
            return Decision(Verdict.ERROR, None, outcome.failure)
        decision = Decision(Verdict.CORRECT if outcome.equal else Verdict.INCORRECT, "symbolic")
        self._remember(key, decision)
        return decision

    def _remember(self, key: Key, decision: Decision, longest_ms: float = math.inf) -> None:
        self._cache[key] = decision, longest_ms
        while len(self._cache) > self._settings.verifier_cache:
            self._cache.popitem(last=False)


class Graded(NamedTuple):
    """How an item was graded; the results of a batch are written when all of it is."""

    extracted: Extracted
    decision: Decision
    ms: float
    cached: bool

    def result(self, item: VerifyItem) -> VerifyResult:
        """As the caller sees it."""
        return VerifyResult(
            id=item.id,
            verdict=self.decision.verdict,
            extracted=self.extracted.answer,
            normal_form=self.extracted.normal_form,
            method=self.decision.method,
            ms=self.ms,
            cached=self.cached,
            detail=self.decision.detail,
        )


class Unsettled(NamedTuple):
    """What only a worker can decide."""

    key: Key
    deferred: Deferred
    deadline_ms: int
    extracted: Extracted
    start: float


def _graded(extracted: Extracted, decision: Decision, start: float, *, cached: bool = False) -> Graded:
    return Graded(extracted, decision, (time.perf_counter() - start) * 1000, cached)
