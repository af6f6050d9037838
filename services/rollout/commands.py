"""What the user asks of a job while a step works on it: a pause or the end, obeyed within about a second."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TypeVar

from services.rollout.bell import wait
from services.rollout.jobs import Jobs
from shared.errors import DriftError

POLL_S, LONGEST_POLL_S = 0.1, 1.0
"""Between two looks: at first, and when a step has lasted. In between a twentieth of its time."""

R = TypeVar("R")


class Interrupted(DriftError):
    """The user paused or cancelled the job."""


def pause(begun: float) -> float:
    """Seconds until the next look, in a step that began at `begun` (`time.monotonic`)."""
    return min(max(POLL_S, (time.monotonic() - begun) / 20), LONGEST_POLL_S)


async def obey(jobs: Jobs, job: str) -> None:
    """Raises `Interrupted` where the user has asked for a pause or the end."""
    if asked := await jobs.asked(job):
        raise Interrupted(f"Job {job}: {asked}.")


async def obey_meanwhile(jobs: Jobs, job: str, work: Coroutine[object, object, R]) -> R:
    """What the work gives; it is given up where the user asks for a pause or the end (`Interrupted`)."""
    working = asyncio.create_task(work)
    begun = time.monotonic()
    try:
        while not working.done():
            ring = jobs.bell.listen()
            await obey(jobs, job)
            resting = asyncio.create_task(wait(ring, pause(begun)))
            await asyncio.wait((working, resting), return_when=asyncio.FIRST_COMPLETED)
            resting.cancel()
        return working.result()
    finally:
        working.cancel()


@contextmanager
def giving_up() -> Iterator[Callable[[], None]]:
    """For work in another thread, which nobody can cancel: what it calls now and then raises once this context ends."""
    given_up = threading.Event()

    def check() -> None:
        if given_up.is_set():
            raise Interrupted("Nobody waits for this any more.")

    try:
        yield check
    finally:
        given_up.set()
