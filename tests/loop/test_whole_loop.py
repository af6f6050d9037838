"""The whole loop: a scripted engine, the real verifier, a real Valkey and a real two-rank torchrun."""

import asyncio
import subprocess
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis
from transformers import AutoModelForCausalLM

from services.rollout.settings import RolloutSettings
from shared import keys
from shared.shards import dataset_folder, read_part
from shared.status import State
from tests.fakes.engine import FIRST_TOKEN, FakeEngine
from tests.rollout.client import PROBLEMS, submit, until
from tests.rollout.test_reuse import count_questions
from tests.trainer.tiny import save_model

pytestmark = pytest.mark.slow


async def test_a_job_goes_from_problems_to_a_better_policy(
    service: httpx.AsyncClient,
    engine: FakeEngine,
    redis: Redis,
    settings: RolloutSettings,
    trainer: subprocess.Popen[bytes],
    tmp_path: Path,
) -> None:
    base = save_model(tmp_path / "base", vocabulary=256 + FIRST_TOKEN)
    engine.root = str(base)
    engine.script = lambda messages, weights: "B" if len(messages) > 1 or weights != str(base) else "A"
    engine.restart()
    job = await submit(
        service,
        sampling={"trajectories": 4, "max_tokens": 8},
        train={"epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
        evaluate=[{"problems": PROBLEMS}],
    )
    status = await until(service, job, lambda status: status.state.final, deadline_s=400)
    assert status.state is State.SUCCEEDED, f"{status.error}\n{(tmp_path / 'trainer.log').read_text()[-3000:]}"

    base_measured, trained_measured = status.evaluations
    assert (base_measured.multi_at[0], trained_measured.multi_at[0]) == (0, 1)
    (training,) = status.trainings
    assert (training.step, training.steps, len(training.losses)) == (6, 6, 6)
    assert training.losses[-1] < training.losses[0]
    assert status.checkpoint is not None
    assert engine.loads[-1] == status.checkpoint

    # Every trajectory is in the dataset exactly once, and nothing is left behind in the stream.
    recorded = [(row.group, row.k) for row in read_part(dataset_folder(settings.runs_root, job, "rollout-0"))]
    assert sorted(recorded) == [(group, k) for group in range(len(PROBLEMS)) for k in range(4)]
    async with asyncio.timeout(60):
        while await redis.xlen(keys.trajectories(job)):
            await asyncio.sleep(0.05)
    page = (await service.get(f"/v1/jobs/{job}/trajectories", params={"limit": 1000})).json()
    assert len(page["trajectories"]) == 24 + 2 * len(PROBLEMS)

    # What is exported is a model of the same shape with other weights.
    before, after = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (base, status.checkpoint))
    assert before.keys() == after.keys()
    assert any((before[name].float() != after[name].float()).any() for name in before)

    # The same rollouts serve another objective, without a single new one.
    asked = count_questions(engine)
    again = await submit(service, dataset=None, rollouts_of=job, train={"steps": 2, "objective": "uniform"})
    reused = await until(service, again, lambda status: status.state.final, deadline_s=400)
    assert reused.state is State.SUCCEEDED, f"{reused.error}\n{(tmp_path / 'trainer.log').read_text()[-3000:]}"
    assert (reused.trainings[0].step, reused.trainings[0].trajectories) == (2, 24)
    assert count_questions(engine) == asked
    assert reused.checkpoint != status.checkpoint
