"""The worker publishes what was sampled under the part's own policy, and nothing else."""

import json
from collections.abc import Sequence

import httpx
import pytest
from redis import Redis

from services.rollout import tickets, worker
from services.rollout.settings import RolloutSettings
from shared import keys
from shared.status import State
from tests.fakes.engine import FakeEngine, Message
from tests.rollout.client import PROBLEMS, finish, submit


async def test_an_episode_that_ends_after_the_engines_have_gone_to_another_part_is_played_again(
    service: httpx.AsyncClient, settings: RolloutSettings, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (worker, "POLL_S", 3600),  # the worker is late to see it
        (worker, "LEASE_MS", 1000),
        (tickets, "LEASE_MS", 1000),
    ):
        monkeypatch.setattr(module, name, value)
    client = Redis.from_url(settings.redis_url, decode_responses=True)
    asked = 0

    def answer(messages: Sequence[Message], weights: str) -> str:
        """While the engine answers for the first time (after the probe) another replica gives it to another job."""
        nonlocal asked
        active = client.get(keys.ACTIVE)
        if active:
            asked += 1
            if asked == 1:
                client.set(keys.ACTIVE, json.dumps(json.loads(str(active)) | {"job": "20260101-000000-abcdef"}))
        return "B"

    engine.script = answer
    spec = {"sampling": {"trajectories": 1}, "protocol": {"max_turns": 1}}
    status = await finish(service, await submit(service, dataset={"problems": PROBLEMS[:1]}, **spec))
    assert (status.state, status.rollouts[0].trajectories) == (State.SUCCEEDED, 1)
    assert asked > 1
