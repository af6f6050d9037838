"""Who waits for an engine is called in order, first where its prefix is cached; nobody waits beside a free place."""

import asyncio

from services.rollout.engines.line import Line

BOTH = ("a", "b")


def join(line: Line, engine: str, messages: int = 1) -> asyncio.Future[None]:
    return line.join(engine, messages, line.arrive())


def call(line: Line, engine: str, usable: tuple[str, ...], waiting: list[asyncio.Future[None]]) -> int | None:
    """Who is called, by place in the list."""
    before = [woken.done() for woken in waiting]
    found = line.call(engine, usable)
    called = [place for place, woken in enumerate(waiting) if woken.done() and not before[place]]
    assert len(called) == found
    return called[0] if called else None


async def test_they_go_in_the_order_of_their_arrival_and_at_the_end_of_a_job_the_shortest_first() -> None:
    line = Line()
    waiting = [join(line, "a", messages) for messages in (5, 3, 1)]
    assert [call(line, "a", BOTH, waiting) for _ in range(4)] == [0, 1, 2, None]
    line.shortest_first = True
    waiting = [join(line, "a", messages) for messages in (5, 3, 1, 3)]
    assert [call(line, "a", BOTH, waiting) for _ in range(5)] == [2, 1, 3, 0, None]


async def test_an_engine_serves_those_first_whose_prefix_it_has() -> None:
    line = Line()
    waiting = [join(line, engine) for engine in ("b", "b", "a", "a")]
    assert [call(line, "a", BOTH, waiting) for _ in range(5)] == [2, 3, 0, 1, None]


async def test_who_waits_at_an_engine_that_is_away_is_served_by_the_others_in_its_turn() -> None:
    line = Line()
    waiting = [join(line, engine) for engine in ("b", "a", "b", "a")]
    assert [call(line, "a", ("a",), waiting) for _ in range(5)] == [0, 1, 2, 3, None]


async def test_who_has_gone_is_not_called_and_who_waits_again_keeps_its_place() -> None:
    line = Line()
    arrivals = [line.arrive() for _ in range(3)]
    waiting = [line.join("a", 1, arrival) for arrival in arrivals]
    waiting[0].cancel()
    assert len(line) == 2 and line.stands_at("a")
    assert call(line, "a", BOTH, waiting) == 1
    again = [*waiting, line.join("a", 1, arrivals[1])]
    assert call(line, "a", BOTH, again) == 3
    waiting[2].cancel()
    assert not line.stands_at("a") and len(line) == 0
