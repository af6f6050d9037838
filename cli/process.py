"""Supervised child processes: healthy within a deadline, restarted with a limit, and never left behind.

Each service runs under its own keeper (`keeper.py`), in its own session, and writes to its own log file. When the
body of `supervise` ends, fails or is cancelled, or this process is killed, every service ends with all its descendants.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import psutil

from cli import keeper
from shared.errors import DriftError

CHECK_S = 10.0
"""Longest time for one health check."""
POLL_S = 0.2
"""Time between two health checks."""
RESTART_WINDOW_S = 600.0
"""Restarts are counted over this time."""
RESTART_PAUSE_S = 1.0
TAIL_LINES = 15
MARK = "DRIFT_STACK_MARK"
"""Environment variable that tells the processes of one supervision from all others."""

Check = Callable[[], Awaitable[bool]]


class ServiceFailed(DriftError):
    """A service could not be started or kept running; the message has its log's last lines."""


class Health(StrEnum):
    """Where a service stands."""

    WAITING = "waiting"
    STARTING = "starting"
    HEALTHY = "healthy"
    RESTARTING = "restarting"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Service:
    """What to run, and how to tell that it works."""

    name: str
    command: Sequence[str]
    healthy: Check
    """False or an `OSError` while the service is not ready."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's own."""
    after: Sequence[str] = ()
    """Services that must be healthy before this one starts, and that stop only after it."""
    deadline_s: float = 60.0
    """Longest time to become healthy."""
    grace_s: float = 10.0
    """Longest time to end by itself after SIGTERM."""
    restarts: int = 3
    """Most restarts within `RESTART_WINDOW_S`."""
    note: str = ""
    """A word for people, e.g. the device."""


class Child:
    """One service while it is supervised."""

    def __init__(self, service: Service, logs: Path, mark: str, changed: Callable[["Child"], None]) -> None:
        self.service = service
        self.mark = mark
        self.log = logs / f"{service.name}.log"
        self.health = Health.WAITING
        self.pid: int | None = None
        """The keeper's process id, which is also its session's and its group's."""
        self.restarts = 0
        self.ready = asyncio.Event()
        self.stopped = asyncio.Event()
        self._changed = changed

    async def run(self, before: Sequence["Child"], dependents: Sequence["Child"]) -> None:
        """Start after `before` are ready and keep running; raises `ServiceFailed` when that cannot be done."""
        starts: list[float] = []
        try:
            for other in before:
                await other.ready.wait()
            while True:
                starts = [moment for moment in starts if time.monotonic() - moment < RESTART_WINDOW_S]
                starts.append(time.monotonic())
                self._become(Health.RESTARTING if self.restarts else Health.STARTING)
                cause = await self._live(dependents)
                if len(starts) > self.service.restarts:
                    raise self._failure(f"{cause} Restarted {self.restarts} times")
                self.restarts += 1
                await asyncio.sleep(RESTART_PAUSE_S)
        except ServiceFailed:
            self._become(Health.FAILED)
            raise
        finally:
            self.stopped.set()
            if self.health is not Health.FAILED:
                self._become(Health.STOPPED)

    async def _live(self, dependents: Sequence["Child"]) -> str:
        """One life of the service, from its start to its death; says how it died."""
        service = self.service
        leash, held = os.pipe()
        try:
            with self.log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, keeper.__file__, str(leash), str(service.grace_s), *service.command,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(leash,), start_new_session=True,
                    env={**os.environ, **service.environment, MARK: self.mark},
                )  # fmt: skip
            os.close(leash)
            leash = -1
            self.pid = process.pid
            try:
                ended = asyncio.create_task(process.wait())
                await self._await_health(ended)
                code = await ended
                return f"{service.name} ended with {_exit(code)}."
            except asyncio.CancelledError:
                for dependent in dependents:
                    await dependent.stopped.wait()
                raise
            finally:
                await _end(process, service.grace_s)
                self.pid = None
        finally:
            os.close(held)
            if leash >= 0:
                os.close(leash)

    async def _await_health(self, ended: "asyncio.Task[int]") -> None:
        """Return once healthy or dead; raises `ServiceFailed` after the deadline."""
        deadline = time.monotonic() + self.service.deadline_s
        while not ended.done():
            if await self._is_healthy():
                self._become(Health.HEALTHY)
                self.ready.set()
                return
            if time.monotonic() > deadline:
                raise self._failure(f"{self.service.name} was not healthy within {self.service.deadline_s:.0f} s")
            await asyncio.wait([ended], timeout=POLL_S)

    async def _is_healthy(self) -> bool:
        """One check, in a task of its own: clients that swallow a cancellation would keep this one from ending."""
        check = asyncio.ensure_future(self.service.healthy())
        try:
            await asyncio.wait([check], timeout=CHECK_S)
            with suppress(OSError):
                return check.done() and check.result()
            return False
        finally:
            check.cancel()

    def _become(self, health: Health) -> None:
        self.health = health
        self._changed(self)

    def _failure(self, what: str) -> ServiceFailed:
        return ServiceFailed(f"{what}.\nLog: {self.log}\n{tail(self.log)}")


@asynccontextmanager
async def supervise(
    services: Sequence[Service], logs: Path, changed: Callable[[Child], None] = lambda _: None
) -> AsyncIterator[dict[str, Child]]:
    """Run the services, with logs in the folder `logs`; the body begins when all are healthy.

    When one fails for good, the body is cancelled and `ServiceFailed` raised. All processes are gone in the end.
    """
    mark = uuid.uuid4().hex
    children = {service.name: Child(service, logs, mark, changed) for service in services}
    for child in children.values():
        child.log.write_bytes(b"")
    keeper.adopt_orphans()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = []
            for child in children.values():
                before = [children[name] for name in child.service.after if name in children]
                dependents = [other for other in children.values() if child.service.name in other.service.after]
                tasks.append(group.create_task(child.run(before, dependents)))
            for child in children.values():
                await child.ready.wait()
            yield children
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as group:
        failed, others = group.split(ServiceFailed)
        raise (failed or others or group).exceptions[0] from None
    finally:
        _kill_orphans(mark)
        keeper.adopt_orphans(False)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 32_768))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


async def _end(process: asyncio.subprocess.Process, grace_s: float) -> None:
    """Let the keeper end its service; kill the group of a keeper that does not, or that was killed itself."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), grace_s + keeper.SWEEP_S + 5)
        except TimeoutError:
            process.kill()
            await process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _kill_orphans(mark: str) -> None:
    """End what a killed keeper left behind in sessions of its own: this process has adopted it."""
    orphans = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if child.environ().get(MARK) == mark:
                orphans.append(child)
    for orphan in orphans:
        with suppress(psutil.NoSuchProcess):
            orphan.kill()
    psutil.wait_procs(orphans, timeout=keeper.SWEEP_S)


def _exit(code: int) -> str:
    number = -code if code < 0 else code - 128
    return f"signal {signal.Signals(number).name}" if number in set(signal.Signals) else f"exit code {code}"
