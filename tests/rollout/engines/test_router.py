"""The vLLM project's own router in front of two engines: requests go through it, weights and load past it."""

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from cli.ports import choose_free
from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings
from shared import keys
from shared.status import State
from shared.training import TrainingState, TrainingStatus
from tests.conftest import second_try
from tests.fakes.engine import FakeEngine, Serving, build_app
from tests.rollout.client import PROBLEMS, finish, submit, until

ROUTER = shutil.which("vllm-router")
pytestmark = pytest.mark.skipif(ROUTER is None, reason="vllm-router is not installed (pip install vllm-router)")


@pytest.fixture
def two() -> Iterator[list[FakeEngine]]:
    fakes = [FakeEngine(second_try), FakeEngine(second_try)]
    with Serving(build_app(fakes[0])) as fakes[0].url, Serving(build_app(fakes[1])) as fakes[1].url:
        yield fakes


@pytest.fixture
def router(two: list[FakeEngine], tmp_path: Path) -> Iterator[str]:
    ports = choose_free({"router": 0, "metrics": 0})
    with (tmp_path / "router.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(ROUTER), "--host", "127.0.0.1", "--port", str(ports["router"])),
                *("--worker-urls", *(fake.url for fake in two), "--policy", "consistent_hash"),
                *("--prometheus-port", str(ports["metrics"]), "--prometheus-host", "127.0.0.1"),
            ],
            stdout=log,
            stderr=log,
        )
        yield f"http://127.0.0.1:{ports['router']}"
        process.terminate()
        process.wait(60)


@pytest.fixture
async def service(settings: RolloutSettings, two: list[FakeEngine], router: str) -> AsyncIterator[httpx.AsyncClient]:
    routed = {
        "engine_urls": (router,),
        "engine_control_urls": tuple(fake.url for fake in two),
        "engine_deadline_s": 120,  # the router is only starting
    }
    with Serving(create_app(settings.model_copy(update=routed))) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield client


async def test_a_job_runs_through_the_router_and_new_weights_reach_every_engine_behind_it(
    service: httpx.AsyncClient, redis: Redis, two: list[FakeEngine], tmp_path: Path
) -> None:
    problems = [{**PROBLEMS[0], "id": str(number)} for number in range(24)]
    job = await submit(
        service,
        dataset={"problems": problems},
        sampling={"trajectories": 3},
        train={"epochs": 1},
        evaluate=[{"problems": PROBLEMS}],
    )
    await until(service, job, lambda status: status.phase == "train" or status.state.final)
    # Siblings, and the turns of each, stay with one engine.
    served = [set(fake.sessions) for fake in two]
    assert all(len(groups) > 2 for groups in served)
    assert not served[0] & served[1]
    made = tmp_path / "stage-0"
    made.mkdir()
    done = TrainingStatus(state=TrainingState.SUCCEEDED, stage=0, checkpoint=str(made))
    await redis.set(keys.training(job, 0), done.model_dump_json())
    status = await finish(service, job)
    assert status.state is State.SUCCEEDED, status.error
    assert [fake.loads for fake in two] == [[str(made)], [str(made)]]
    assert [each.multi_at[0] for each in status.evaluations] == [0, 1]
