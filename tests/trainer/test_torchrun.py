"""The trainer as users start it: a real torchrun of two ranks, a real Valkey, a tiny random Llama."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil
import pytest
import torch
from redis.asyncio import Redis
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from services.trainer.plan import make_plan
from services.trainer.training import schedule
from shared import keys
from shared.job import TrainingState, TrainingStatus, TrainingTask, TrainSpec
from shared.returns import ReturnSpec
from shared.stream import TrajectoryStream, connect
from tests.conftest import serve_valkey
from tests.trainer.tiny import make_groups, save_model

GROUPS = 12
TRAIN = TrainSpec(steps=30, batch_size=8, learning_rate=3e-3)


@dataclass(frozen=True)
class Trainer:
    """A running torchrun."""

    url: str
    runs_root: Path
    model: str
    process: psutil.Popen

    def worker(self, rank: int) -> psutil.Process:
        workers = [one for one in self.process.children() if one.environ().get("RANK") == str(rank)]
        (worker,) = workers
        return worker

    def export(self, job: str) -> Path:
        return self.runs_root / job / "checkpoints" / "stage-0" / "export"


def start(url: str, runs_root: Path, model: str, ranks: int) -> Trainer:
    environment = {
        "DRIFT_REDIS_URL": url,
        "DRIFT_RUNS_ROOT": str(runs_root),
        "DRIFT_TRAINER_DTYPE": "float32",
        "DRIFT_TRAINER_THREADS": "1",
        "DRIFT_CHECKPOINT_SECONDS": "0",
        "DRIFT_MICRO_BATCH_TOKENS": "64",
    }
    command = ["--standalone", "--nproc-per-node", str(ranks), "--max-restarts", "5", "-m", "services.trainer"]
    process = psutil.Popen(
        [sys.executable, "-m", "torch.distributed.run", *command],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        stderr=(runs_root / f"trainer-{ranks}.log").open("w"),
    )
    return Trainer(url, runs_root, model, process)


def stop(trainer: Trainer) -> None:
    trainer.process.terminate()
    try:
        trainer.process.wait(timeout=40)
    finally:
        for left in trainer.process.children(recursive=True) if trainer.process.is_running() else []:
            left.kill()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    with serve_valkey() as url:
        model = str(save_model(tmp_path_factory.mktemp("model")))
        trainer = start(url, tmp_path_factory.mktemp("runs"), model, ranks=2)
        try:
            yield trainer
        finally:
            if trainer.process.is_running():
                stop(trainer)


@pytest.fixture
async def redis(trainer: Trainer) -> AsyncIterator[Redis]:
    async with connect(trainer.url) as client:
        yield client


async def submit(redis: Redis, job: str, model: str, train: TrainSpec = TRAIN) -> None:
    await redis.zadd(keys.JOBS, {job: 0})
    stream = TrajectoryStream(redis, job)
    for one in make_groups(job, groups=GROUPS):
        await stream.publish(one, {"trajectories": 1})
    task = TrainingTask(
        job=job, stage=0, model=model, tokenizer=model, groups=GROUPS, group_size=4, train=train, returns=ReturnSpec()
    )
    await redis.xadd(keys.TRAININGS, {"task": task.model_dump_json()})


async def wait_for(redis: Redis, trainer: Trainer, job: str, *states: TrainingState, step: int = 0) -> TrainingStatus:
    async with asyncio.timeout(90):
        while True:
            assert trainer.process.is_running() and trainer.process.status() != psutil.STATUS_ZOMBIE, "torchrun ended"
            text = await redis.get(keys.training(job, 0))
            status = TrainingStatus.model_validate_json(text) if text else None
            if status and status.state in states and status.step >= step:
                return status
            await asyncio.sleep(0.02)


async def test_two_ranks_train_and_export_what_one_plain_loop_does(redis: Redis, trainer: Trainer) -> None:
    await submit(redis, "undisturbed", trainer.model)
    status = await wait_for(redis, trainer, "undisturbed", TrainingState.SUCCEEDED, TrainingState.FAILED)
    assert status.state is TrainingState.SUCCEEDED, status.error
    assert status.step == status.steps == len(status.losses) == 30
    assert status.composition is not None and status.composition.complete == GROUPS
    exported_to = trainer.export("undisturbed")
    assert status.checkpoint == str(exported_to)
    assert await TrajectoryStream(redis, "undisturbed").backlog() == 0
    assert await redis.exists(keys.TRAINER_ALIVE)
    events = cast(list[tuple[str, dict[str, str]]], await redis.xrange(keys.events("undisturbed")))
    assert {fields["type"] for _, fields in events} == {"training"}

    model = AutoModelForCausalLM.from_pretrained(trainer.model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=TRAIN.weight_decay)
    plan = make_plan(make_groups("undisturbed", groups=GROUPS), ReturnSpec(), TRAIN)
    for step in range(30):
        losses = [
            -example.coefficient * model(input_ids=torch.tensor([example.tokens])).logits[0, place - 1]
            .log_softmax(-1)[example.tokens[place]]
            for example in plan.batch(step)
            for span in example.spans
            for place in range(*span)
        ]  # fmt: skip
        loss = torch.stack(losses).sum()
        loss.backward()
        assert status.losses[step] == pytest.approx(float(loss.detach()), rel=1e-4)
        clip_grad_norm_(model.parameters(), TRAIN.max_grad_norm)
        optimizer.param_groups[0]["lr"] = schedule(step + 1, 30, TRAIN)
        optimizer.step()
        optimizer.zero_grad()
    exported = AutoModelForCausalLM.from_pretrained(exported_to).state_dict()
    for name, wanted in model.state_dict().items():
        torch.testing.assert_close(exported[name], wanted, rtol=1e-3, atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(exported_to)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "w5 w6"}], tokenize=False) == "w5 w6 </s> "
    generation = GenerationConfig.from_pretrained(exported_to)
    assert generation.eos_token_id == 2 and not generation.do_sample and generation.temperature in (None, 1.0)


async def test_a_failed_training_is_reported_and_the_trainer_goes_on(redis: Redis, trainer: Trainer) -> None:
    await submit(redis, "homeless", str(trainer.runs_root / "no-such-model"))
    status = await wait_for(redis, trainer, "homeless", TrainingState.FAILED)
    assert "no-such-model" in (status.error or "") and "safetensors" in (status.error or "")
    await submit(redis, "next", trainer.model, TRAIN.model_copy(update={"steps": 2, "objective": "single_turn"}))
    assert (await wait_for(redis, trainer, "next", TrainingState.SUCCEEDED)).trajectories < GROUPS * 4


async def test_a_cancelled_training_stops_at_the_next_step(redis: Redis, trainer: Trainer) -> None:
    await submit(redis, "unwanted", trainer.model, TRAIN.model_copy(update={"steps": 100_000}))
    await wait_for(redis, trainer, "unwanted", TrainingState.RUNNING, step=1)
    await redis.set(keys.command("unwanted"), "cancel")
    assert (await wait_for(redis, trainer, "unwanted", TrainingState.CANCELLED)).step < 100_000


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
async def test_a_killed_rank_resumes_and_ends_bit_for_bit_the_same(redis: Redis, trainer: Trainer, rank: int) -> None:
    job = f"killed-{rank}"
    await submit(redis, job, trainer.model)
    await wait_for(redis, trainer, job, TrainingState.RUNNING, step=3)
    trainer.worker(rank).send_signal(signal.SIGKILL)
    status = await wait_for(redis, trainer, job, TrainingState.SUCCEEDED, TrainingState.FAILED)
    assert status.state is TrainingState.SUCCEEDED, status.error
    assert _weights(trainer, job) == _weights(trainer, "undisturbed")
    async with asyncio.timeout(20):
        while await redis.xlen(keys.TRAININGS):  # taken off the stream after its status is final
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_stopped_training_goes_on_with_another_number_of_ranks(redis: Redis, trainer: Trainer) -> None:
    """The last test here: it ends the trainer of two ranks and starts one of a single rank."""
    await submit(redis, "moved", trainer.model)
    before = await wait_for(redis, trainer, "moved", TrainingState.RUNNING, step=3)
    stop(trainer)
    assert await redis.xlen(keys.TRAININGS) == 1, "the task stays pending"
    single = start(trainer.url, trainer.runs_root, trainer.model, ranks=1)
    try:
        status = await wait_for(redis, single, "moved", TrainingState.SUCCEEDED, TrainingState.FAILED)
    finally:
        stop(single)
    assert status.state is TrainingState.SUCCEEDED, status.error
    assert status.losses[: before.step] == before.losses
    moved = AutoModelForCausalLM.from_pretrained(trainer.export("moved")).state_dict()
    wanted = AutoModelForCausalLM.from_pretrained(trainer.export("undisturbed")).state_dict()
    for name, weight in wanted.items():
        torch.testing.assert_close(moved[name], weight, rtol=1e-3, atol=1e-4)


def _weights(trainer: Trainer, job: str) -> bytes:
    return (trainer.export(job) / "model.safetensors").read_bytes()
