"""An engine that keeps failing is left alone, then tried with one probe at a time."""

from services.rollout.engines.breaker import FAILURES, FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker, Circuit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def opened() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        breaker.fail()
    return breaker, clock


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(Clock())
    for _ in range(5):
        for _ in range(FAILURES - 1):
            breaker.fail()
        breaker.succeed()
    assert breaker.state is Circuit.CLOSED
    breaker, _ = opened()
    assert breaker.state is Circuit.OPEN


def test_after_its_pause_a_success_closes_it() -> None:
    breaker, clock = opened()
    clock.now += FIRST_PAUSE_S
    assert breaker.state is Circuit.HALF_OPEN
    breaker.succeed()
    assert breaker.state is Circuit.CLOSED


def test_each_failed_try_doubles_the_pause_up_to_a_limit() -> None:
    breaker, clock = opened()
    pauses: list[float] = []
    for _ in range(8):
        begun = clock.now
        while breaker.state is Circuit.OPEN:
            clock.now += 0.5
        pauses.append(clock.now - begun)
        breaker.fail()
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_a_burst_of_failures_counts_as_one_opening() -> None:
    breaker, clock = opened()
    for _ in range(200):
        breaker.fail()
    clock.now += FIRST_PAUSE_S
    assert breaker.state is Circuit.HALF_OPEN
