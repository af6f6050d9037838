"""Who has the engines: one job at a time, the oldest that wants them.

A younger job may have them while the older trains, and gives way when the older wants them again.
"""

import bisect
from collections.abc import Iterator
from contextlib import contextmanager

from shared.status import JobStatus

Place = tuple[float, str]
"""A job's place in the line: when it was submitted, and its id."""


class Turns:
    """The jobs of one conductor that want the engines."""

    def __init__(self) -> None:
        self._line: list[Place] = []
        self._holder: Place | None = None

    @contextmanager
    def want(self, job: JobStatus) -> Iterator[None]:
        """Stand in line, and hold the engines from the first successful `take` to the end of the context."""
        place = _place(job)
        bisect.insort(self._line, place)
        try:
            yield
        finally:
            self._line.remove(place)
            if self._holder == place:
                self._holder = None

    def take(self, job: JobStatus) -> bool:
        """Whether the job has the engines, now or already."""
        if self._holder is None and self._line[0] == _place(job):
            self._holder = self._line[0]
        return self._holder == _place(job)

    def is_awaited(self, job: JobStatus) -> bool:
        """Whether an older job waits for the engines that this one holds."""
        return self._line[0] != _place(job)


def _place(job: JobStatus) -> Place:
    return job.created, job.id
