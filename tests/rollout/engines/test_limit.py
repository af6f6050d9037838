"""The limit finds the engine's own number of places, keeps a short queue there and shares with other processes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.rollout.engines.limit import LEAST_QUEUE, START, Limit, Load

LOOKS = 60


def look_at(slots: int, limits: list[Limit], looks: int, share_sent: float = 1.0) -> list[Load]:
    """What an engine of `slots` reports, look by look, while every process sends what its limit allows."""
    reports: list[Load] = []
    for _ in range(looks):
        sent = [int(limit.value * share_sent) for limit in limits]
        load = Load(min(slots, sum(sent)), max(0, sum(sent) - slots))
        for limit, in_flight in zip(limits, sent, strict=True):
            limit.update(load, in_flight)
        reports.append(load)
    return reports


def longest_queue(slots: int) -> int:
    return 2 * max(LEAST_QUEUE, slots // 8)


@settings(max_examples=60)
@given(slots=st.integers(16, 2048))
def test_an_engine_of_any_size_is_filled_and_never_buried(slots: int) -> None:
    limit = Limit(floor=8, ceiling=4096)
    settled = look_at(slots, [limit], LOOKS)[-20:]
    assert all(load.running == slots for load in settled)
    assert all(load.waiting <= longest_queue(slots) + slots for load in settled)
    assert sum(load.waiting for load in settled) / len(settled) <= longest_queue(slots)


def test_a_large_engine_is_full_within_a_few_looks() -> None:
    reports = look_at(1024, [Limit(floor=16, ceiling=4096)], 6)
    assert reports[-1].running == 1024


@settings(max_examples=40)
@given(slots=st.integers(64, 1024), processes=st.integers(2, 4))
def test_processes_that_share_an_engine_bury_it_no_more_than_one(slots: int, processes: int) -> None:
    limits = [Limit(floor=8, ceiling=4096) for _ in range(processes)]
    look_at(slots, limits[:1], LOOKS)  # One was there first.
    settled = look_at(slots, limits, LOOKS)[-20:]
    assert all(load.running == slots for load in settled)
    assert sum(load.waiting for load in settled) / len(settled) <= longest_queue(slots) + slots / 4
    assert all(limit.value >= 8 for limit in limits)


def test_answers_that_are_being_graded_do_not_keep_the_engine_hungry() -> None:
    settled = look_at(256, [Limit(floor=16, ceiling=4096)], LOOKS, share_sent=0.6)[-20:]
    assert all(load.running == 256 for load in settled)


@given(running=st.integers(0, 64), looks=st.integers(1, 20))
def test_figures_from_before_the_last_requests_arrived_do_not_double_them(running: int, looks: int) -> None:
    limit = Limit(floor=128, ceiling=4096)
    for _ in range(looks):
        limit.update(Load(running, waiting=0), in_flight=limit.value)
    assert limit.value <= 128 + looks * LEAST_QUEUE


def test_one_look_at_a_burst_of_arrivals_changes_nothing() -> None:
    limit = Limit(floor=16, ceiling=4096)
    limit.update(Load(running=64, waiting=64), in_flight=64)
    assert limit.value == START


def test_a_job_that_does_not_use_its_places_gets_no_more() -> None:
    limit = Limit(floor=16, ceiling=4096)
    for _ in range(LOOKS):
        limit.update(Load(running=5, waiting=0), in_flight=5)
    assert limit.value == START


def test_a_full_cache_gets_no_more_requests() -> None:
    limit = Limit(floor=16, ceiling=4096)
    for _ in range(LOOKS):
        limit.update(Load(running=64, waiting=0, cache_usage=0.97), in_flight=64)
    assert limit.value == START


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000)), max_size=50))
def test_it_stays_between_floor_and_ceiling(reports: list[tuple[int, int, int]]) -> None:
    limit = Limit(floor=16, ceiling=512)
    for running, waiting, in_flight in reports:
        limit.update(Load(running, waiting), in_flight)
        assert 16 <= limit.value <= 512
