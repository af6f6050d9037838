"""The trainer as users start it: a real torchrun of two ranks, a real Valkey, a tiny random Llama."""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import psutil
import pytest
import torch
from huggingface_hub import ModelCard
from redis.asyncio import Redis
from safetensors.torch import load_file
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from cli.ports import choose_free
from services.trainer.adapter import file_name
from services.trainer.executor import Executor
from services.trainer.orders import Begin, Measure, Step
from services.trainer.packing import split_batch
from services.trainer.plan import make_plan
from services.trainer.population import is_held_out
from services.trainer.ranks import Ranks
from services.trainer.training import schedule
from shared import keys
from shared.returns import ReturnSpec
from shared.shards import list_shards
from shared.stream import TrajectoryStream, connect
from shared.training import LoraSpec, TrainingState, TrainingTask, TrainSpec
from tests.conftest import serve_valkey
from tests.trainer.tiny import make_groups, save_model
from tests.trainer.torchrun import (
    GROUPS,
    TRAIN,
    DurableValkey,
    Trainer,
    publish,
    read_status,
    running,
    submit,
    succeed,
    wait_for,
)

STREAMED = TrainSpec(steps=12, batch_size=4, learning_rate=3e-3, streaming=True)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    with serve_valkey() as url:
        model = str(save_model(tmp_path_factory.mktemp("model")))
        with running(Trainer(url, tmp_path_factory.mktemp("runs"), model)) as trainer:
            yield trainer


@pytest.fixture
async def redis(trainer: Trainer) -> AsyncIterator[Redis]:
    async with connect(trainer.url) as client:
        yield client


async def test_two_ranks_train_and_export_what_one_plain_loop_does(redis: Redis, trainer: Trainer) -> None:
    await submit(redis, "undisturbed", trainer.model)
    status = await succeed(redis, trainer, "undisturbed")
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


async def test_two_ranks_train_an_adapter_as_one_does_and_measure_held_out_groups(
    redis: Redis, trainer: Trainer
) -> None:
    train = TrainSpec(
        steps=7, batch_size=8, learning_rate=1e-2, lora=LoraSpec(r=4), held_out=0.3, held_out_every=3, epsilon=0
    )
    await submit(redis, "adapted", trainer.model, train)
    status = await wait_for(redis, trainer, "adapted", TrainingState.SUCCEEDED, TrainingState.FAILED)
    assert status.state is TrainingState.SUCCEEDED, status.error
    groups = make_groups("adapted", groups=GROUPS)
    held_out = {one.group for one in groups if is_held_out(one.problem.id, 0.3)}
    assert 0 < status.held_out_groups == len(held_out) and status.trajectories == 4 * (GROUPS - len(held_out))
    assert [step for step, _ in status.held_out_losses] == [0, 3, 6, 7]

    plan = make_plan(groups, ReturnSpec(), train)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        task = TrainingTask(
            job="one", stage=0, model=trainer.model, tokenizer=trainer.model, groups=GROUPS, group_size=4, train=train,
            returns=ReturnSpec(),
        )  # fmt: skip
        one = Executor(Ranks(0, 1, torch.device("cpu")), Begin(task=task, dtype="float32", checkpoint=None))
        for step in range(7):
            if step % 3 == 0:
                loss = one.measure(Measure(shares=split_batch(plan.held_out(), 1, 64)))
                assert dict(status.held_out_losses)[step] == pytest.approx(loss, rel=1e-4)
            order = Step(
                step=step + 1, learning_rate=schedule(step + 1, 7, train), shares=split_batch(plan.batch(step), 1, 64)
            )
            assert status.losses[step] == pytest.approx(one.step(order).loss, rel=1e-4)
    finally:
        torch.distributed.destroy_process_group()
    exported = load_file(trainer.export("adapted") / "adapter_model.safetensors")
    for name, weight in one.model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(exported[file_name(name)], weight.detach(), rtol=1e-3, atol=1e-4)
    card = ModelCard.load(trainer.export("adapted") / "README.md")
    assert card.data.to_dict()["library_name"] == "peft"
    assert "LoRA r 4" in card.text and f"{len(held_out)} groups held out" in card.text


@pytest.mark.slow
async def test_a_killed_rank_resumes_an_adapter_bit_for_bit(redis: Redis, trainer: Trainer) -> None:
    train = TRAIN.model_copy(update={"lora": LoraSpec(r=4, dropout=0.1), "held_out": 0.3})
    await submit(redis, "adapter", trainer.model, train)
    undisturbed = await wait_for(redis, trainer, "adapter", TrainingState.SUCCEEDED, TrainingState.FAILED)
    assert undisturbed.state is TrainingState.SUCCEEDED, undisturbed.error
    await submit(redis, "adapter-killed", trainer.model, train)
    await wait_for(redis, trainer, "adapter-killed", TrainingState.RUNNING, step=12)
    worker = trainer.worker(1)
    assert worker is not None
    worker.send_signal(signal.SIGKILL)
    status = await wait_for(redis, trainer, "adapter-killed", TrainingState.SUCCEEDED, TrainingState.FAILED)
    assert status.state is TrainingState.SUCCEEDED, status.error
    assert status.held_out_losses == undisturbed.held_out_losses and status.losses == undisturbed.losses
    one, other = (trainer.export(job) / "adapter_model.safetensors" for job in ("adapter", "adapter-killed"))
    assert one.read_bytes() == other.read_bytes()


async def test_a_failed_training_is_reported_and_the_trainer_goes_on(redis: Redis, trainer: Trainer) -> None:
    await submit(redis, "homeless", str(trainer.runs_root / "no-such-model"))
    status = await wait_for(redis, trainer, "homeless", TrainingState.FAILED)
    assert "no-such-model" in (status.error or "") and "safetensors" in (status.error or "")
    await submit(redis, "next", trainer.model, TRAIN.model_copy(update={"steps": 2, "objective": "single_turn"}))
    assert (await succeed(redis, trainer, "next")).trajectories < GROUPS * 4


async def test_a_cancelled_training_stops_at_the_next_step(redis: Redis, trainer: Trainer) -> None:
    await submit(redis, "unwanted", trainer.model, TRAIN.model_copy(update={"steps": 100_000}))
    await wait_for(redis, trainer, "unwanted", TrainingState.RUNNING, step=1)
    await redis.set(keys.command("unwanted"), "cancel")
    assert (await wait_for(redis, trainer, "unwanted", TrainingState.CANCELLED)).step < 100_000


async def test_a_finished_training_keeps_its_export_only(redis: Redis, trainer: Trainer) -> None:
    await submit(redis, "tidy", trainer.model, TRAIN.model_copy(update={"steps": 3}))
    await succeed(redis, trainer, "tidy")
    left = {path.name for path in trainer.export("tidy").parent.iterdir()}
    assert {"export", "attempt.json"} <= left and not any(name.startswith(("step-", ".")) for name in left)


@pytest.mark.slow
async def test_a_streamed_training_begins_early_and_ends_as_one_that_had_all_its_data(
    redis: Redis, trainer: Trainer
) -> None:
    """It trains what is there, makes room for another training, survives a kill, and goes on when more comes."""
    await submit(redis, "whole", trainer.model, STREAMED)
    whole = await succeed(redis, trainer, "whole")
    rows = make_groups("streamed", groups=GROUPS)
    half = len(rows) // 2
    await submit(redis, "streamed", trainer.model, STREAMED, rows[:half])
    message = "waits for trajectories: 6 of 12 groups"
    status = await wait_for(redis, trainer, "streamed", TrainingState.RUNNING, step=4, message=message)
    assert status.step == 4 and status.trajectories == half
    await submit(redis, "between", trainer.model, TRAIN.model_copy(update={"steps": 2}))
    await succeed(redis, trainer, "between")
    await publish(redis, "streamed", rows[half:-8])
    await wait_for(redis, trainer, "streamed", TrainingState.RUNNING, step=8, message="waits for trajectories")
    victim = trainer.worker(1)
    assert victim is not None
    victim.send_signal(signal.SIGKILL)
    await publish(redis, "streamed", rows[-8:])
    status = await succeed(redis, trainer, "streamed")
    assert len(list_shards(trainer.runs_root / "streamed" / "dataset" / "rollout-0")) >= 3
    assert status.losses == whole.losses
    assert trainer.weights("streamed") == trainer.weights("whole")


@pytest.mark.slow
async def test_a_stopped_training_goes_on_with_other_numbers_of_ranks(redis: Redis, trainer: Trainer) -> None:
    """From two ranks to one and back to two. The last test of this trainer: it ends it."""
    await submit(redis, "moved", trainer.model)
    before = await wait_for(redis, trainer, "moved", TrainingState.RUNNING, step=3)
    trainer.stop()
    assert await redis.xlen(keys.TRAININGS) == 1, "the task stays pending"
    with running(Trainer(trainer.url, trainer.runs_root, trainer.model, ranks=1)) as single:
        between = await wait_for(redis, single, "moved", TrainingState.RUNNING, step=before.step + 5)
        single.stop()
    assert between.losses[: before.step] == before.losses
    with running(Trainer(trainer.url, trainer.runs_root, trainer.model, ranks=2)) as double:
        status = await succeed(redis, double, "moved")
    assert status.losses[: between.step] == between.losses
    moved = AutoModelForCausalLM.from_pretrained(trainer.export("moved")).state_dict()
    wanted = AutoModelForCausalLM.from_pretrained(trainer.export("undisturbed")).state_dict()
    for name, weight in wanted.items():
        torch.testing.assert_close(moved[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
async def test_a_redis_that_is_gone_for_good_ends_the_trainer_and_a_later_start_resumes(tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "model"))
    with tempfile.TemporaryDirectory(prefix="drift-") as folder:
        valkey = DurableValkey(Path(folder))
        valkey.start()
        settings = {"DRIFT_REDIS_PATIENCE_S": "10"}
        trainer = Trainer(valkey.url, tmp_path, model, ranks=2, arguments=("--standalone",), settings=settings)
        try:
            with running(trainer):
                async with connect(valkey.url) as redis:
                    await submit(redis, "job", model, TRAIN.model_copy(update={"steps": 2_000}))
                    await wait_for(redis, trainer, "job", TrainingState.RUNNING, step=3)
                valkey.kill()
                assert await asyncio.to_thread(trainer.process.wait, 120) == 1
                assert "Redis has not answered for 10 s. See DRIFT_REDIS_URL" in trainer.log.read_text()
            valkey.start()
            async with connect(valkey.url) as redis:
                before = await read_status(redis, "job")
                assert before is not None
                with running(trainer):
                    after = await wait_for(redis, trainer, "job", TrainingState.RUNNING, step=before.step + 3)
                    assert after.losses[: before.step] == before.losses
        finally:
            valkey.kill()


def catches_sigterm(rank: psutil.Process | None) -> bool:
    status = Path(f"/proc/{rank.pid}/status").read_text() if rank else ""
    return any(int(line.split()[1], 16) >> 14 & 1 for line in status.splitlines() if line.startswith("SigCgt"))


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 3])
async def test_a_stop_that_was_asked_for_is_a_success(tmp_path: Path, step: int) -> None:
    """While the trainer starts, and while it trains: it saves, and its agent ends with exit code 0."""
    model = str(save_model(tmp_path / "model"))
    with serve_valkey() as url:
        trainer = Trainer(url, tmp_path, model, launcher="services.trainer.agent")
        with running(trainer):
            async with connect(url) as redis:
                await submit(redis, "job", model, TRAIN.model_copy(update={"steps": 5_000}))
                if step:
                    await wait_for(redis, trainer, "job", TrainingState.RUNNING, step=step)
                else:
                    async with asyncio.timeout(60):
                        while not all(catches_sigterm(trainer.worker(rank)) for rank in range(2)):
                            await asyncio.sleep(0.02)
                assert trainer.stop() == 0, trainer.log.read_text()[-3000:]
                assert await redis.xlen(keys.TRAININGS) == 1, "the task stays pending"
        assert bool(step) == any((tmp_path / "job" / "checkpoints" / "stage-0").glob("step-*"))


@pytest.mark.slow
async def test_two_nodes_that_meet_by_the_ordinary_rendezvous_train_as_one_does(tmp_path: Path) -> None:
    """Two torchruns of one rank each, c10d, one folder of runs; they find each other again when a rank is killed."""
    model = str(save_model(tmp_path / "model"))
    meeting = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "drift", "--max-restarts", "3")
    with serve_valkey() as url:
        async with connect(url) as redis:
            with running(Trainer(url, tmp_path, model, ranks=2)) as whole:
                await submit(redis, "whole", model)
                await succeed(redis, whole, "whole")
            [port] = choose_free({"rendezvous": 0}).values()
            place = ("--rdzv-endpoint", f"127.0.0.1:{port}")
            nodes = [Trainer(url, tmp_path, model, 1, (*meeting, *place)) for _ in range(2)]
            with running(nodes[0]), running(nodes[1]):
                await submit(redis, "nodes", model)
                await wait_for(redis, nodes[0], "nodes", TrainingState.RUNNING, step=10)
                victim = nodes[0].worker(0) or nodes[0].worker(1)
                assert victim is not None
                victim.kill()
                await succeed(redis, nodes[0], "nodes")
        assert nodes[0].weights("nodes") == whole.weights("whole")
