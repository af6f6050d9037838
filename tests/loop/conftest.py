"""A real trainer for the tests of the whole loop."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.rollout.settings import RolloutSettings

RANKS = 2


@pytest.fixture
def trainer(settings: RolloutSettings, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`torchrun --standalone --nproc-per-node 2 -m services.trainer`, ended with its whole process group."""
    environment = os.environ | {
        "DRIFT_REDIS_URL": settings.redis_url,
        "DRIFT_RUNS_ROOT": str(settings.runs_root),
        "DRIFT_TRAINER_DTYPE": "float32",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    with (tmp_path / "trainer.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-m", "services.trainer"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        yield process
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
