"""Two real ranks over gloo train what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trainer.tiny import make_model, save_model

SCRIPT = Path(__file__).with_name("ten_steps.py")


def train(model: Path, ranks: int) -> Tensor:
    file = model / f"weights-{ranks}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    subprocess.run([*torchrun, str(SCRIPT), str(model), str(file)], check=True, env=environment, timeout=240)
    return torch.cat([weight.flatten() for weight in torch.load(file, weights_only=True)])


@pytest.mark.slow
def test_two_ranks_weights_equal_one_ranks_after_ten_steps(tmp_path: Path) -> None:
    model = save_model(tmp_path)
    one, two = train(model, 1), train(model, 2)
    start = torch.cat([weight.detach().flatten() for weight in make_model().parameters()])
    assert (one - start).norm() > 1e-2 * start.norm(), "it has learnt something"
    assert (two - one).norm() <= 1e-5 * one.norm()
