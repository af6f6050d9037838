"""A circuit breaker: an engine that keeps failing is left alone, then tried with a probe of its watcher.

closed: every request goes through; `FAILURES` failures in a row open it.
open: none goes through, for a pause that doubles with every failed probe.
half-open: only the probe goes through, since a real request may take minutes; its success closes the breaker, its
failure opens it again.
"""

from collections.abc import Callable
from enum import StrEnum

FAILURES = 3
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


class Circuit(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """The breaker of one engine; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._pause = FIRST_PAUSE_S
        self._until: float | None = None

    @property
    def state(self) -> Circuit:
        if self._until is None:
            return Circuit.CLOSED
        return Circuit.OPEN if self._clock() < self._until else Circuit.HALF_OPEN

    def succeed(self) -> None:
        """The engine has answered."""
        self._failures, self._pause, self._until = 0, FIRST_PAUSE_S, None

    def fail(self) -> None:
        """The engine has not answered, or with a fault of its own."""
        self._failures += 1
        state = self.state
        if state is Circuit.CLOSED and self._failures >= FAILURES:
            self.open()
        elif state is Circuit.HALF_OPEN:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
            self.open()

    def open(self) -> None:
        """Let nothing through for a pause."""
        self._until = self._clock() + self._pause
