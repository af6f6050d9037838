"""A request goes where its group's prefix is cached, never to an engine that cannot answer, and again until one can."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.rollout.engines import control, policy
from services.rollout.engines.breaker import Circuit
from services.rollout.engines.engine import EngineDown, Refused, Sampling
from services.rollout.engines.inspection import PROBE
from services.rollout.engines.limit import Limit
from services.rollout.engines.policy import Policies
from services.rollout.engines.pool import Engines
from services.rollout.settings import RolloutSettings
from tests.fakes.engine import FakeEngine, Message, Serving, build_app

ASK = [{"role": "user", "content": "Q"}]
SAMPLING = Sampling(1.0, 8)


def answer(_: Sequence[Message], __: str) -> str:
    return "A"


@pytest.fixture
def two() -> Iterator[list[FakeEngine]]:
    fakes = [FakeEngine(answer), FakeEngine(answer)]
    with Serving(build_app(fakes[0])) as fakes[0].url, Serving(build_app(fakes[1])) as fakes[1].url:
        yield fakes


@asynccontextmanager
async def watched(fakes: Sequence[FakeEngine], deadline_s: float) -> AsyncIterator[Engines]:
    """The engines on the base policy."""
    urls = tuple(fake.url for fake in fakes)
    settings = RolloutSettings(_env_file=None, engine_urls=urls, engine_deadline_s=deadline_s)  # pyright: ignore[reportCallIssue]
    engines = Engines(settings, CollectorRegistry())
    engines.want(fakes[0].root)
    watching = asyncio.create_task(Policies(engines).watch())
    try:
        yield engines
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await engines.close()


@pytest.fixture
async def pool(two: list[FakeEngine]) -> AsyncIterator[Engines]:
    """Both."""
    async with watched(two, deadline_s=20) as engines:
        yield engines


async def until_served(pool: Engines) -> None:
    async with asyncio.timeout(60):
        while not all(engine.serving for engine in pool.members):
            await asyncio.sleep(0.01)


async def until_only_the_first_serves(pool: Engines, two: list[FakeEngine]) -> None:
    two[1].down = True
    async with asyncio.timeout(60):
        while pool.members[0].serving is None or pool.members[1].serving is not None:
            await asyncio.sleep(0.01)


async def ask(pool: Engines, group: int) -> str:
    async with asyncio.timeout(60):
        return (await pool.answer("scripted", ASK, SAMPLING, group))[1]


async def test_a_group_stays_with_one_engine_and_groups_are_shared_out(pool: Engines, two: list[FakeEngine]) -> None:
    await until_served(pool)
    chosen = await asyncio.gather(*(ask(pool, group) for group in range(20) for _ in range(3)))
    by_group = [set(chosen[3 * group : 3 * group + 3]) for group in range(20)]
    assert all(len(engines) == 1 for engines in by_group)
    assert {engine for engines in by_group for engine in engines} == {fake.url for fake in two}
    # A router in front of several engines keeps siblings together by a header.
    assert {session for fake in two for session in fake.sessions} == {str(group) for group in range(20)}


async def test_an_engine_that_goes_away_loses_only_its_own_groups(pool: Engines, two: list[FakeEngine]) -> None:
    await until_served(pool)
    before = await asyncio.gather(*(ask(pool, group) for group in range(20)))
    two[0].down = True
    after = await asyncio.gather(*(ask(pool, group) for group in range(20)))
    assert set(after) == {two[1].url}
    two[0].restart()
    async with asyncio.timeout(60):
        while await asyncio.gather(*(ask(pool, group) for group in range(20))) != before:
            await asyncio.sleep(0.05)


async def test_an_engine_that_keeps_failing_gets_one_probe_at_a_time_until_it_answers(
    pool: Engines, two: list[FakeEngine]
) -> None:
    await until_only_the_first_serves(pool, two)
    two[0].broken = 9
    asked = len(two[0].requests)
    await asyncio.gather(*(ask(pool, group) for group in range(8)))
    # The first eight fail together and open the breaker; then a probe fails, and the next does not.
    assert [body["messages"] == PROBE for body in two[0].requests[asked:]] == [False] * 8 + [True] * 2 + [False] * 8


async def test_requests_do_not_wait_for_one_of_them_to_find_that_a_failing_engine_is_back(
    pool: Engines, two: list[FakeEngine]
) -> None:
    await until_only_the_first_serves(pool, two)
    two[0].broken = 3
    failing = [asyncio.create_task(ask(pool, group)) for group in range(3)]
    async with asyncio.timeout(60):
        while pool.members[0].breaker.state is Circuit.CLOSED:
            await asyncio.sleep(0.005)
    two[0].latency_s = 0.5
    waiting = [asyncio.create_task(ask(pool, group)) for group in range(20)]
    await asyncio.wait((*failing, *waiting), return_when=asyncio.FIRST_COMPLETED)
    assert sum(body["messages"] == ASK for body in two[0].requests) == 3 + 3 + 20
    await asyncio.gather(*failing, *waiting)


async def test_a_request_that_no_engine_would_take_is_not_repeated(pool: Engines, two: list[FakeEngine]) -> None:
    for fake in two:
        fake.max_model_len = 3
    with pytest.raises(Refused, match="context length"):
        await ask(pool, 0)
    assert sum(len(fake.requests) for fake in two) == 1


async def test_waiting_requests_are_answered_in_order_and_a_cancelled_one_gives_up_its_turn(
    pool: Engines, two: list[FakeEngine]
) -> None:
    await until_only_the_first_serves(pool, two)
    pool.members[0].limit = Limit(1, 1)  # whatever the next look at the engine says
    two[0].latency_s = 0.05
    order: list[int] = []

    async def turn(number: int) -> None:
        await ask(pool, number)
        order.append(number)

    tasks = [asyncio.create_task(turn(number)) for number in range(6)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 1, 3, 4, 5]
    assert two[0].most_in_flight == 1


async def test_of_waiting_requests_the_one_with_most_turns_left_goes_first_at_the_end(
    pool: Engines, two: list[FakeEngine]
) -> None:
    await until_only_the_first_serves(pool, two)
    pool.members[0].limit = Limit(1, 1)
    pool.line.shortest_first = True
    two[0].latency_s = 0.05
    order: list[tuple[int, int]] = []

    async def turn(trajectory: int, played: int) -> None:
        await pool.answer("scripted", [*ASK, *(ASK * 2 * played)], SAMPLING, trajectory)
        order.append((trajectory, played))

    asked = [(0, 1), (1, 2), (2, 1), (3, 0), (4, 0)]
    await asyncio.gather(*(turn(trajectory, played) for trajectory, played in asked))
    assert order == [(0, 1), (3, 0), (4, 0), (2, 1), (1, 2)]


async def test_time_in_line_does_not_count_against_the_deadline_and_time_without_an_engine_does(
    two: list[FakeEngine],
) -> None:
    async with watched(two[:1], deadline_s=2) as engines:
        await until_served(engines)
        engines.members[0].limit = Limit(1, 1)
        two[0].latency_s = 0.5
        assert await asyncio.gather(*(ask(engines, group) for group in range(8))) == [two[0].url] * 8
        two[0].down = True
        with pytest.raises(EngineDown):
            await ask(engines, 0)


async def test_an_answer_may_take_longer_than_the_deadline_while_its_engine_samples(two: list[FakeEngine]) -> None:
    async with watched(two[:1], deadline_s=1) as engines:
        await until_served(engines)
        two[0].latency_s = 2.5
        asked = asyncio.create_task(ask(engines, 0))
        while not asked.done():
            two[0].generated += 1  # as vLLM does, with each token
            await asyncio.sleep(0.05)
        assert await asked == two[0].url
    assert len(two[0].requests) == 1


async def test_what_an_engine_was_sent_that_hangs_is_repeated_elsewhere(
    two: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "LOOK_S", 0.2)
    monkeypatch.setattr(policy, "GONE_S", 1.0)
    async with watched(two, deadline_s=3600) as engines:
        await until_served(engines)
        chosen = await ask(engines, 0)
        first, second = sorted(two, key=lambda fake: fake.url != chosen)
        first.latency_s = 3600
        asked = asyncio.create_task(ask(engines, 0))
        async with asyncio.timeout(60):
            while not first.running:
                await asyncio.sleep(0.005)
        first.hanging = True
        assert await asked == second.url


async def test_what_an_engine_was_sent_that_is_well_and_samples_nothing_is_repeated_elsewhere(
    two: list[FakeEngine],
) -> None:
    async with watched(two, deadline_s=1) as engines:
        await until_served(engines)
        chosen = await ask(engines, 0)
        first, second = sorted(two, key=lambda fake: fake.url != chosen)
        first.latency_s = 3600
        assert await ask(engines, 0) == second.url


async def test_a_process_that_was_frozen_looks_at_an_engine_before_it_sends_a_turn_and_does_not_blame_it(
    two: list[FakeEngine],
) -> None:
    async with watched(two[:1], deadline_s=60) as engines:
        await until_served(engines)
        two[0].latency_s = 2.0
        in_flight = asyncio.create_task(ask(engines, 0))
        async with asyncio.timeout(60):
            while not two[0].running:
                await asyncio.sleep(0.005)
        two[0].latency_s = 0.0
        engines.freed.clear()
        await engines.freed.wait()  # The next look is a second away.
        # An hour goes by, in which the engine was started anew, on other weights.
        two[0].version = "others"
        (engine,) = engines.members
        engine.confirmed -= 3600
        engines._noted -= 3600
        waiting = asyncio.create_task(ask(engines, 0))
        await asyncio.sleep(0)
        engines.announce()
        async with asyncio.timeout(60):
            while engine.serving is not None:
                await asyncio.sleep(0.005)
        assert len(two[0].requests) == 1
        two[0].version, two[0].broken = "default", 1
        assert await asyncio.gather(in_flight, waiting) == [two[0].url] * 2


async def test_a_server_that_is_away_behind_a_router_matters_only_if_it_would_come_back_with_another_policy(
    two: list[FakeEngine], tmp_path: Path
) -> None:
    servers = tuple(fake.url for fake in two)
    settings = RolloutSettings(_env_file=None, engine_urls=servers[:1], engine_control_urls=servers)  # pyright: ignore[reportCallIssue]
    engines = Engines(settings, CollectorRegistry())
    policies = Policies(engines)
    policies.conducting = True
    two[1].down = True
    engines.want(two[0].root)
    watching = asyncio.create_task(policies.watch())
    (routed,) = engines.members
    async with asyncio.timeout(60):
        while routed.serving != two[0].root:
            await asyncio.sleep(0.01)
    engines.want(str(tmp_path))
    async with asyncio.timeout(60):
        while two[0].weights != str(tmp_path) or policies.trouble is None:
            await asyncio.sleep(0.01)
    assert routed.serving is None
    two[1].restart()
    async with asyncio.timeout(60):
        while routed.serving != str(tmp_path):
            await asyncio.sleep(0.01)
    assert two[1].loads == [str(tmp_path)]
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await engines.close()
