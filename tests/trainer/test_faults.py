"""Kill or stop any rank, the agent, or all of them: the weights end up bit for bit those of an undisturbed run.

DRIFT_FAULTS sets how many kills (`make test-faults`).
"""

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from shared.stream import connect
from shared.training import TrainingState, TrainSpec
from tests.conftest import serve_valkey
from tests.processes import is_alive
from tests.trainer.tiny import save_model
from tests.trainer.torchrun import Trainer, read_status, running, submit, succeed, wait_for

KILLS = int(os.environ.get("DRIFT_FAULTS", "4"))
START_S = 6.0
"""Longest wait for a moment of a start: kills fall into loading and resuming, too."""
pytestmark = pytest.mark.slow


async def test_no_kill_changes_a_bit_of_the_final_weights(tmp_path: Path) -> None:
    rng = random.Random(KILLS)
    train = TrainSpec(steps=10 + 4 * KILLS, batch_size=8, learning_rate=1e-3)
    settings = {"DRIFT_TRAINING_ATTEMPTS": "1000", "DRIFT_CHECKPOINT_SECONDS": "0.2"}
    model = str(save_model(tmp_path / "model"))
    with serve_valkey() as url:
        arguments = ("--standalone", "--max-restarts", "1000", "--monitor-interval", "0.1")
        trainer = Trainer(url, tmp_path / "runs", model, ranks=2, arguments=arguments, settings=settings)
        trainer.runs_root.mkdir()
        async with connect(url) as redis:

            async def step() -> int:
                status = await read_status(redis, "killed")
                assert status is None or status.state in (TrainingState.WAITING, TrainingState.RUNNING), (
                    f"over before the last kill: {status}"
                )
                return status.step if status else 0

            with running(trainer):
                await submit(redis, "undisturbed", model, train)
                undisturbed = await succeed(redis, trainer, "undisturbed")
                await submit(redis, "killed", model, train)
                for kill in range(KILLS):
                    if rng.random() < 0.3:  # while it starts, or as soon as it has
                        stood, moment = await step(), time.monotonic() + rng.uniform(0, START_S)
                        while time.monotonic() < moment and await step() <= stood:
                            await asyncio.sleep(0.01)
                    else:  # while it trains, further on than ever
                        goal = await step() + rng.randint(1, 3)
                        async with asyncio.timeout(300):
                            while await step() < goal:
                                await asyncio.sleep(0.01)
                        await asyncio.sleep(rng.uniform(0, 0.1))
                    victim = ("rank 0", "rank 1", "agent", "all")[kill % 4]
                    await step()
                    if victim.startswith("rank"):
                        if worker := trainer.worker(int(victim[-1])):
                            worker.kill()
                    elif victim == "agent":
                        trainer.process.kill()
                        trainer.process.wait()
                        trainer.start()
                    else:
                        trainer.kill()
                        trainer.start()
                killed = await succeed(redis, trainer, "killed")
        assert killed.losses == undisturbed.losses
        assert trainer.weights("killed") == trainer.weights("undisturbed")


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_rank_that_hangs_is_given_up_at_the_deadline_and_the_training_goes_on(
    tmp_path: Path, rank: int
) -> None:
    # Ranks of a busy machine may miss so short a deadline of themselves: that restarts them as well, and harms nothing.
    settings = {"DRIFT_COLLECTIVE_TIMEOUT_S": "5", "DRIFT_TRAINING_ATTEMPTS": "1000"}
    model = str(save_model(tmp_path / "model"))
    arguments = ("--standalone", "--max-restarts", "1000", "--monitor-interval", "0.1")
    with serve_valkey() as url, running(Trainer(url, tmp_path, model, 2, arguments, settings)) as trainer:
        async with connect(url) as redis:
            await submit(redis, "undisturbed", model)
            undisturbed = await succeed(redis, trainer, "undisturbed")
            await submit(redis, "hung", model)
            await wait_for(redis, trainer, "hung", TrainingState.RUNNING, step=5)
            worker = trainer.worker(rank)
            assert worker is not None
            worker.suspend()
            hung = await succeed(redis, trainer, "hung")
        assert hung.losses == undisturbed.losses
        assert trainer.weights("hung") == trainer.weights("undisturbed")
        assert "has waited 5 s for the other ranks in vain" in trainer.log.read_text()


async def test_no_rank_outlives_its_agent(tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "model"))
    with serve_valkey() as url, running(Trainer(url, tmp_path, model)) as trainer:
        async with connect(url) as redis:
            await submit(redis, "job", model)
            await wait_for(redis, trainer, "job", TrainingState.RUNNING, step=1)
        ranks = trainer.process.children()
        ranks[0].suspend()  # even one that no longer runs
        assert len(ranks) == 2
        trainer.process.kill()
        async with asyncio.timeout(60):
            while any(is_alive(rank.pid) for rank in ranks):
                await asyncio.sleep(0.02)
