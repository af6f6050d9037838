"""A replica sees at once what it has changed itself, however rarely it looks for what others have."""

import asyncio

import httpx
import pytest

from services.rollout import commands, conductor, steps, worker
from services.rollout.app import create_app
from services.rollout.bell import Bell, wait
from services.rollout.settings import RolloutSettings
from shared.status import State
from tests.fakes.engine import FakeEngine, Serving
from tests.rollout.client import PROBLEMS, finish, submit, until

NEVER_S = 3600.0


async def test_what_changes_while_one_looks_is_not_missed() -> None:
    bell = Bell()
    ring = bell.listen()
    bell.ring()
    async with asyncio.timeout(10):
        await wait(ring, NEVER_S)
    assert not bell.listen().is_set()


async def test_everybody_who_waits_is_woken() -> None:
    bell = Bell()
    waiting = [asyncio.create_task(wait(bell.listen(), NEVER_S)) for _ in range(3)]
    await asyncio.sleep(0)
    bell.ring()
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)


async def test_a_lone_replica_never_waits_for_its_next_look(
    settings: RolloutSettings, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rarely(_: float) -> float:
        return NEVER_S

    monkeypatch.setattr(worker, "POLL_S", NEVER_S)
    monkeypatch.setattr(conductor, "POLL_S", NEVER_S)
    for module in (steps, commands):
        monkeypatch.setattr(module, "pause", rarely)
    with Serving(create_app(settings)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as service:
            first, second = [await submit(service, evaluate=[{"problems": PROBLEMS}]) for _ in range(2)]
            assert (await finish(service, first)).state is State.SUCCEEDED
            assert (await finish(service, second)).state is State.SUCCEEDED
            engine.latency_s = NEVER_S
            third = await submit(service)
            await until(service, third, lambda _: engine.in_flight > 0)
            await service.post(f"/v1/jobs/{third}/pause")
            await until(service, third, lambda status: status.state is State.PAUSED and engine.in_flight == 0)
            engine.latency_s = 0.0
            await service.post(f"/v1/jobs/{third}/resume")
            assert (await finish(service, third)).state is State.SUCCEEDED
