"""Policies: what was trained is in place before it is asked, after a restart as well, or the job says why not."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.rollout.app import create_app
from services.rollout.engines.control import Control, adapter_name
from services.rollout.engines.engine import EngineDown, Sampling
from services.rollout.engines.policy import Policies
from services.rollout.engines.pool import Engines
from services.rollout.settings import RolloutSettings
from shared import keys
from shared.status import State
from shared.training import TrainingState, TrainingStatus, TrainingTask
from tests.conftest import second_try
from tests.fakes.engine import FakeEngine, Serving
from tests.rollout.client import PROBLEMS, finish, submit, until


async def finish_training(redis: Redis, job: str, stage: int, folder: Path) -> str:
    """Be the trainer: leave a checkpoint and say so."""
    folder.mkdir(exist_ok=True)
    done = TrainingStatus(state=TrainingState.SUCCEEDED, stage=stage, checkpoint=str(folder))
    await redis.set(keys.training(job, stage), done.model_dump_json())
    return str(folder)


async def test_a_trained_policy_is_loaded_before_it_is_evaluated(
    service: httpx.AsyncClient, redis: Redis, engine: FakeEngine, tmp_path: Path
) -> None:
    few = {"trajectories": 2}
    job = await submit(
        service, train={"epochs": 1}, evaluate=[{"problems": PROBLEMS}], refresh={"stages": 2}, sampling=few
    )
    made: list[str] = []
    for stage in range(2):
        await until(service, job, lambda status: len(status.trainings) > stage)  # noqa: B023 - handed out by then
        entry = ((await redis.xrevrange(keys.TRAININGS, count=1)) or [])[0][1] or {}
        task = TrainingTask.model_validate_json(entry["task"])
        assert (task.stage, task.groups) == (stage, len(PROBLEMS))
        assert task.model == [engine.root, *made][-1]
        made.append(await finish_training(redis, job, stage, tmp_path / f"stage-{stage}"))
    status = await finish(service, job)
    assert status.state is State.SUCCEEDED, status.error
    assert engine.loads == made
    assert [(each.policy, each.multi_at[0]) for each in status.evaluations] == [
        ("base", 0),
        ("stage-1", 1),
        ("stage-2", 1),
    ]
    assert status.checkpoint == made[-1]
    # The next job begins with the base policy again.
    again = await finish(service, await submit(service, dataset=None, evaluate=[{"problems": PROBLEMS}]))
    assert engine.loads[-1] == engine.root
    assert again.evaluations[0].multi_at[0] == 0


async def test_an_engine_that_restarts_is_given_the_policy_again(
    service: httpx.AsyncClient, redis: Redis, engine: FakeEngine, tmp_path: Path
) -> None:
    job = await submit(service, train={"epochs": 1}, evaluate=[{"problems": PROBLEMS * 20}])
    await until(service, job, lambda status: status.phase == "train")
    engine.latency_s = 1
    made = await finish_training(redis, job, 0, tmp_path / "stage-0")
    await until(service, job, lambda status: len(engine.loads) == 1 and engine.in_flight > 0)
    engine.down = True
    # An engine takes seconds to come back: by then every request to the old one has failed.
    async with asyncio.timeout(60):
        while not engine.refused or f'drift_engine_in_flight{{engine="{engine.url}"}} 0.0' not in await metrics(
            service
        ):
            await asyncio.sleep(0.02)
    engine.restart()
    status = await finish(service, job)
    assert engine.loads == [made, made]
    assert status.evaluations[-1].multi_at[0] == 1


async def metrics(service: httpx.AsyncClient) -> str:
    return (await service.get("/metrics")).text


async def test_weights_that_no_engine_can_load_fail_the_job(
    settings: RolloutSettings, redis: Redis, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.loadable = False
    with Serving(create_app(settings.model_copy(update={"engine_deadline_s": 5}))) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            job = await submit(client, train={"epochs": 1}, evaluate=[{"problems": PROBLEMS}])
            await until(client, job, lambda status: status.phase == "train")
            await finish_training(redis, job, 0, tmp_path / "stage-0")
            status = await finish(client, job)
    assert status.state is State.FAILED
    assert "stage-1" in (status.error or "")
    assert "scripted fault" in (status.error or "")


def save_adapter(folder: Path, base: str) -> Path:
    """A LoRA adapter's folder, as far as anybody but the engine looks into it."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    return folder


async def test_an_adapter_is_served_beside_its_base_and_the_one_before_it_goes(
    service: httpx.AsyncClient, redis: Redis, engine: FakeEngine, tmp_path: Path
) -> None:
    adapters = [str(save_adapter(tmp_path / f"stage-{stage}", engine.root)) for stage in range(2)]
    job = await submit(
        service,
        train={"epochs": 1},
        evaluate=[{"problems": PROBLEMS}],
        refresh={"stages": 2},
        sampling={"trajectories": 2},
    )
    for stage, adapter in enumerate(adapters):
        await until(service, job, lambda status: len(status.rollouts) > stage and status.phase == "train")  # noqa: B023
        await finish_training(redis, job, stage, Path(adapter))
    status = await finish(service, job)
    assert status.state is State.SUCCEEDED, status.error
    assert engine.loads == adapters
    assert engine.adapters == {adapter_name(adapters[1]): adapters[1]}
    assert engine.weights == engine.root
    assert [each.multi_at[0] for each in status.evaluations] == [0, 1, 1]
    asked = list(dict.fromkeys(str(body["model"]) for body in engine.requests))
    assert asked == [engine.model, *(adapter_name(adapter) for adapter in adapters)]
    page = (await service.get(f"/v1/jobs/{job}/trajectories", params={"limit": 1000})).json()["trajectories"]
    assert {(each["part"], each["policy"]) for each in page} == {
        ("rollout-0", "base"),
        ("rollout-1", "stage-1"),
        ("evaluate-0-0", "base"),
        ("evaluate-1-0", "stage-1"),
        ("evaluate-2-0", "stage-2"),
    }


async def test_an_engine_without_lora_refuses_an_adapter_with_the_remedy(
    service: httpx.AsyncClient, redis: Redis, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.loadable = False
    job = await submit(service, train={"epochs": 1}, evaluate=[{"problems": PROBLEMS}])
    await until(service, job, lambda status: status.phase == "train")
    await finish_training(redis, job, 0, save_adapter(tmp_path / "adapter", engine.root))
    status = await finish(service, job)
    assert status.state is State.FAILED
    assert "--enable-lora" in (status.error or "")
    assert engine.url in (status.error or "")


async def test_an_engine_is_never_asked_for_weights_that_are_not_there(
    service: httpx.AsyncClient, redis: Redis, engine: FakeEngine, tmp_path: Path
) -> None:
    job = await submit(service, train={"epochs": 1}, evaluate=[{"problems": PROBLEMS}])
    await until(service, job, lambda status: status.phase == "train")
    (tmp_path / "gone").mkdir()
    await finish_training(redis, job, 0, tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    status = await finish(service, job)
    assert status.state is State.FAILED
    assert "DRIFT_RUNS_ROOT" in (status.error or "")
    assert not engine.loads


async def test_what_is_in_flight_when_the_policy_changes_is_asked_again_under_the_new_one(
    settings: RolloutSettings, engine: FakeEngine
) -> None:
    engines = Engines(settings, CollectorRegistry())
    policies = Policies(engines)
    policies.conducting = True
    engines.want(engine.root)
    watching = asyncio.create_task(policies.watch())
    engine.latency_s = 0.3
    ask = [{"role": "user", "content": "Q"}]
    asked = asyncio.create_task(engines.answer(engine.model, ask, Sampling(1.0, 8), 0))
    async with asyncio.timeout(60):
        while not engine.running:
            await asyncio.sleep(0.005)
    engines.want(str(settings.data_root))
    answer, _ = await asked
    assert answer.text == second_try(ask, str(settings.data_root)) != second_try(ask, engine.root)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await engines.close()


@pytest.mark.parametrize("requests", range(1, 6))
async def test_an_engine_whose_loading_was_cut_off_does_not_pass_for_one_that_serves(requests: int) -> None:
    """The loading process dies after this many of its requests: what it would have sent then never arrives."""
    label, arrived = "/weights/old", 0

    def take(request: httpx.Request) -> httpx.Response:
        nonlocal label, arrived
        arrived += 1
        if arrived > requests:
            raise httpx.ConnectError("the process is dead")
        if request.url.path == "/update_weight_version":
            label = json.loads(request.content)["new_version"]
        return httpx.Response(200, json={})

    async with httpx.AsyncClient(transport=httpx.MockTransport(take)) as client:
        with pytest.raises(EngineDown):
            await Control("http://engine", client).load_weights("/weights/new")
    assert label not in ("/weights/old", "/weights/new")
