"""Rank 0's dealings with Redis, on a thread and an event loop of their own: heartbeat, ingest, tasks and status.

They go on while the main thread trains. The main thread's calls are synchronous; each is tried again while Redis
is away, until patience ends, and a failure of the background work is raised by the next call.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Self, TypeVar, cast

from pydantic import ValidationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential

from services.trainer.ingest import Ingest
from services.trainer.metrics import show_training
from services.trainer.settings import TrainerSettings
from shared import keys
from shared.errors import Unavailable
from shared.status import JobStatus
from shared.stream import Answer, connect, ensure_group
from shared.telemetry import get_logger
from shared.training import TrainingStatus, TrainingTask

_CONSUMER = "trainer"
_BEAT_S = 3.0
_ALIVE_S = 15
_EVENTS_KEPT = 2_000

T = TypeVar("T")

_log = get_logger(__name__)


@dataclass(frozen=True)
class Assignment:
    """A task of the stream of trainings, pending until it is finished."""

    entry: str
    task: TrainingTask


class Courier:
    """Use as a context manager; the thread ends with it."""

    def __init__(self, settings: TrainerSettings) -> None:
        self._settings = settings
        self._redis = connect(settings.redis_url)
        self._ingest_redis = connect(settings.redis_url)
        self._ingest = Ingest(self._ingest_redis, settings)
        self._loop = asyncio.new_event_loop()
        self._work: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._taken: set[str] = set()
        """Entries of the tasks that were handed out and are not finished."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join(timeout=30)

    def next_task(self, wait_s: float) -> Assignment | None:
        """The oldest task that is not finished, one left by a crash first; None after `wait_s` without any."""
        return self._call(lambda: self._next_task(wait_s))

    def is_cancelled(self, job: str) -> bool:
        """Whether the user has cancelled the job."""
        return self._call(lambda: self._redis.get(keys.command(job))) == "cancel"

    def has_ended(self, job: str) -> bool:
        """Whether the job is over, however it ended."""
        status = self._call(lambda: self._redis.get(keys.status(job)))
        return status is not None and JobStatus.model_validate_json(str(status)).state.final

    def published(self, job: str, part: str) -> int:
        """Trajectories of a part that have been rolled out so far."""
        return int(float(self._call(lambda: self._redis.hget(keys.counts(job, part), "published")) or 0))

    def report(self, job: str, status: TrainingStatus) -> None:
        """Write the training's status, and an event without the list of losses."""
        show_training(status)
        self._call(lambda: self._report(job, status))

    def finish(self, assignment: Assignment) -> None:
        """Take the task off the stream; its final status has been reported."""
        self._call(lambda: self._finish(assignment.entry))
        self._taken.remove(assignment.entry)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._work = self._loop.create_task(self._serve())
        self._work.add_done_callback(lambda _: self._loop.stop())
        self._loop.run_forever()
        self._loop.run_until_complete(self._redis.aclose())
        self._loop.run_until_complete(self._ingest_redis.aclose())

    def _cancel(self) -> None:
        if self._work is not None:
            self._work.cancel()

    async def _serve(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                tasks.create_task(self._ingest.run())
        except ExceptionGroup as group:
            error: Exception = group
            while isinstance(error, ExceptionGroup):  # one broken task cancels the others: it alone says what is wrong
                error = error.exceptions[0]
            raise error from None

    async def _beat(self) -> None:
        name = f"{socket.gethostname()}:{os.getpid()}"
        while True:
            await self._retrying(lambda: self._redis.set(keys.TRAINER_ALIVE, name, ex=_ALIVE_S))
            await asyncio.sleep(_BEAT_S)

    def _call(self, act: Callable[[], Awaitable[T]]) -> T:
        future = asyncio.run_coroutine_threadsafe(self._retrying(act), self._loop)
        while not wait([future], timeout=1.0).done:
            if self._work is not None and self._work.done():
                self._work.result()
                raise Unavailable("The courier's thread has ended.")
        return future.result()

    async def _retrying(self, act: Callable[[], Awaitable[T]]) -> T:
        patience = self._settings.redis_patience_s
        try:
            async with asyncio.timeout(patience):
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type((RedisConnectionError, RedisTimeoutError)),
                    wait=wait_exponential(multiplier=0.1, max=5.0),
                ):
                    with attempt:
                        return await act()
        except TimeoutError:
            raise Unavailable(
                f"Redis has not answered for {patience:.0f} s.",
                remedy="See DRIFT_REDIS_URL, then start the trainer again: it goes on from its last checkpoint.",
            ) from None
        raise AssertionError("unreachable: tenacity raises the last error")

    async def _next_task(self, wait_s: float) -> Assignment | None:
        await ensure_group(self._redis, keys.TRAININGS, keys.TRAINER_GROUP)
        for start in ("0", ">"):  # what is pending first: left by a crash, or its answer was lost on the way from Redis
            answer = await self._redis.xreadgroup(
                keys.TRAINER_GROUP, _CONSUMER, {keys.TRAININGS: start}, block=max(1, int(wait_s * 1000))
            )
            entries = [entry for _, entries in cast(Answer, answer or []) for entry in entries]
            for entry, fields in entries:
                if entry in self._taken:
                    continue
                try:
                    assignment = Assignment(entry, TrainingTask.model_validate_json(fields.get("task", "")))
                except ValidationError as error:
                    _log.error("task refused", entry=entry, fields=fields, error=str(error))
                    await self._finish(entry)
                    continue
                self._taken.add(entry)
                return assignment
        return None

    async def _report(self, job: str, status: TrainingStatus) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(keys.training(job, status.stage), status.model_dump_json())
            event = status.model_dump_json(exclude={"losses"})
            pipe.xadd(keys.events(job), {"type": "training", "data": event}, maxlen=_EVENTS_KEPT, approximate=True)
            await pipe.execute()

    async def _finish(self, entry: str) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xack(keys.TRAININGS, keys.TRAINER_GROUP, entry)
            pipe.xdel(keys.TRAININGS, entry)
            await pipe.execute()
