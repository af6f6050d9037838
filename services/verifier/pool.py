"""Symbolic workers that can be killed: a deadline counted from dispatch, SIGKILL, and a fresh fork in its place.

A worker that dies of itself is replaced and its task tried once more on another; a task that meets its deadline is not
tried again. At most half of the workers take tasks marked heavy, so cheap ones always find a place.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from services.verifier.metrics import Metrics
from services.verifier.settings import VerifierSettings
from services.verifier.task import Outcome, Task
from shared.telemetry import get_logger

LOG = get_logger(__name__)
START_SECONDS = 60.0
"""Longest wait for the zygote's imports or for a fork."""


@dataclass(slots=True)
class Worker:
    """One forked process at the other end of a connection."""

    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    tasks_left: int


@dataclass(frozen=True, slots=True)
class Expired:
    """A task that met its deadline, and the processor time that it had until then; seconds."""

    computed: float


class WorkerPool:
    """`size` workers behind a queue; use as an async context manager."""

    def __init__(self, settings: VerifierSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._places = asyncio.Semaphore(settings.verifier_workers)
        self._heavy = asyncio.Semaphore(max(1, settings.verifier_workers // 2))
        self._idle: list[Worker] = []
        self._busy: dict[int, Worker] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="drift-verifier-")
        self._path = Path(self._folder.name) / "zygote"
        self._zygote: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._idle = [await self._fork() for _ in range(self._settings.verifier_workers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in [*self._idle, *self._busy.values()]:
            self._end(worker)
        if self._zygote is not None and self._zygote.stdin is not None:
            self._zygote.stdin.close()
            await self._zygote.wait()
        self._folder.cleanup()

    @property
    def alive(self) -> bool:
        """Whether workers can be had."""
        return bool(self._idle) or self._breeds

    @property
    def busy(self) -> frozenset[int]:
        """Process ids of the workers that have a task."""
        return frozenset(self._busy)

    @property
    def processes(self) -> frozenset[int]:
        """Process ids of all workers."""
        return self.busy | {worker.pid for worker in self._idle}

    @property
    def _breeds(self) -> bool:
        return self._zygote is not None and self._zygote.returncode is None

    async def run(self, task: Task, deadline: float, *, heavy: bool = False) -> Outcome | Expired:
        """Do `task` within `deadline` seconds of its dispatch."""
        async with contextlib.AsyncExitStack() as places:
            if heavy:
                await places.enter_async_context(self._heavy)
            await places.enter_async_context(self._places)
            for fresh in (False, True):
                try:
                    return await self._dispatch(task, deadline, fresh=fresh)
                except (ConnectionError, asyncio.IncompleteReadError):
                    self._metrics.kills.labels("died").inc()
            return Outcome(failure="The symbolic worker died twice on this task.")

    async def _dispatch(self, task: Task, deadline: float, *, fresh: bool) -> Outcome | Expired:
        worker = await self._fork() if fresh or not self._idle else self._idle.pop()
        self._busy[worker.pid] = worker
        healthy = False
        before = processor_seconds(worker.pid)
        try:
            async with asyncio.timeout(deadline):
                worker.writer.write(orjson.dumps(task.model_dump()) + b"\n")
                await worker.writer.drain()
                outcome = Outcome.model_validate_json(await worker.reader.readuntil(b"\n"))
            if outcome.spent:
                self._metrics.kills.labels("memory").inc()
            healthy = not outcome.spent
            return outcome
        except TimeoutError:
            self._metrics.kills.labels("deadline").inc()
            return Expired(processor_seconds(worker.pid) - before)
        finally:
            del self._busy[worker.pid]
            worker.tasks_left -= 1
            if healthy and worker.tasks_left > 0:
                self._idle.append(worker)
            else:
                self._end(worker)

    def _end(self, worker: Worker) -> None:
        worker.writer.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)

    async def _fork(self) -> Worker:
        async with asyncio.timeout(START_SECONDS), self._starting:
            if not self._breeds:
                await self._start_zygote()
            try:
                return await self._connect()
            except (ConnectionError, FileNotFoundError, asyncio.IncompleteReadError):  # it died, and is not reaped yet
                await self._start_zygote()
                return await self._connect()

    async def _connect(self) -> Worker:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=1 << 16)
        pid = orjson.loads(await reader.readuntil(b"\n"))
        return Worker(pid, reader, writer, self._settings.verifier_worker_tasks)

    async def _start_zygote(self) -> None:
        if self._zygote is not None:
            LOG.warning("zygote.died", returncode=self._zygote.returncode)
        self._path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._path))
            listener.listen(128)
            listener.set_inheritable(True)
            self._zygote = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.verifier.zygote",
                str(listener.fileno()),
                str(self._settings.verifier_worker_memory_mb),
                str(self._settings.verifier_worker_tasks),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(listener.fileno(),),
            )


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
