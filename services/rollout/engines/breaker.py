"""A circuit breaker: an engine that keeps failing is left alone, then tried with a single request.

closed: every request goes through; `FAILURES` failures in a row open it.
open: none goes through, for a pause that doubles with every failed try.
half-open: one request goes through; its success closes the breaker, its failure opens it again.
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
        self._probing = False

    @property
    def state(self) -> Circuit:
        if self._until is None:
            return Circuit.CLOSED
        return Circuit.OPEN if self._clock() < self._until else Circuit.HALF_OPEN

    @property
    def admits(self) -> bool:
        """Whether a request may go through now."""
        return self.state is Circuit.CLOSED or (self.state is Circuit.HALF_OPEN and not self._probing)

    def begin(self) -> None:
        """A request goes through; one of `succeed`, `fail` and `abandon` must follow."""
        self._probing = self._probing or self.state is Circuit.HALF_OPEN

    def succeed(self) -> None:
        """The engine has answered."""
        self._failures, self._pause, self._until, self._probing = 0, FIRST_PAUSE_S, None, False

    def fail(self) -> None:
        """The engine has not answered, or with a fault of its own."""
        self._failures += 1
        state = self.state
        if state is Circuit.CLOSED and self._failures >= FAILURES:
            self._until = self._clock() + self._pause
        elif state is Circuit.HALF_OPEN:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
            self._until = self._clock() + self._pause
        self._probing = False

    def abandon(self) -> None:
        """The request ended without saying anything of the engine: it was cancelled, or refused for its own sake."""
        self._probing = False
