"""What people see of the engines is what the engines say."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from services.rollout.engines.limit import Load
from services.rollout.engines.observation import Looks
from tests.fakes.engine import FakeEngine
from tests.rollout.client import submit


async def until(service: httpx.AsyncClient, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The one engine's state once it is as wanted."""
    async with asyncio.timeout(60):
        while True:
            (engine,) = (await service.get("/v1/engines")).raise_for_status().json()["engines"]
            if holds(engine):
                return engine
            await asyncio.sleep(0.05)


async def test_an_engine_is_seen_at_work_away_and_back(service: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.latency_s, engine.slots = 2.0, 4
    await submit(service, sampling={"trajectories": 2})
    # The engine's own words are a second old, while requests are still being sent.
    seen = await until(service, lambda seen: seen["running"] == 4 and seen["waiting"] + 4 == seen["in_flight"])
    assert (seen["url"], seen["serving"], seen["circuit"]) == (engine.url, "/weights/base", "closed")
    assert seen["in_flight"] <= seen["limit"]
    assert seen["healthy"] and seen["trouble"] is None
    engine.down = True
    gone = await until(service, lambda seen: seen["trouble"])
    assert not gone["healthy"] and gone["serving"] is None
    assert "does not answer" in gone["trouble"] or engine.url in gone["trouble"]
    engine.restart()
    back = await until(service, lambda seen: seen["healthy"])
    assert (back["serving"], back["trouble"]) == ("/weights/base", None)


def test_tokens_a_second_are_the_engines_own_and_begin_anew_with_it() -> None:
    looks = Looks()
    assert (looks.load, looks.tokens_per_s) == (None, None)
    for at, generated in ((10.0, 500.0), (11.0, 600.0), (14.0, 900.0)):
        looks.note(Load(1, 0, 0.0, generated), at)
    assert looks.tokens_per_s == 100
    looks.note(Load(1, 0, 0.0, 50.0), 15.0)  # a new process counts from nothing
    assert looks.tokens_per_s is None
    looks.note(Load(1, 0, 0.0, 90.0), 17.0)
    assert looks.tokens_per_s == 20
