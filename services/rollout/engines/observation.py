"""What is known of each engine at this moment, for people: its own words at the last looks, and this process's view."""

from collections import deque
from collections.abc import Sequence

from services.rollout.engines.breaker import Circuit
from services.rollout.engines.engine import Engine
from services.rollout.engines.limit import Load
from shared.schema import Schema

LOOKS = 5
"""Looks that the rate is measured over; there is one every two seconds."""


class EngineState(Schema):
    """One engine, or a router before several."""

    url: str
    healthy: bool
    """Whether it serves the wanted policy and takes requests."""
    serving: str | None
    """Folder or hub name of the weights that it is known to serve."""
    running: int | None
    """Requests that it works at, of all its clients; absent where it does not say. So are the next three."""
    waiting: int | None
    cache_usage: float | None
    """Share of the key-value cache in use."""
    tokens_per_s: float | None
    """Tokens sampled a second over the last looks."""
    in_flight: int
    """Requests of this replica there."""
    limit: int
    """Most of them at the moment."""
    circuit: Circuit
    trouble: str | None
    """Why it does not serve the wanted policy."""


class Looks:
    """What one engine has said of itself lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Load]] = deque(maxlen=LOOKS)

    def note(self, load: Load, at: float) -> None:
        """Remember a look; `at` in seconds, on any clock."""
        if self._seen and load.generated < self._seen[-1][1].generated:  # it has been restarted
            self._seen.clear()
        self._seen.append((at, load))

    def forget(self) -> None:
        """It says nothing any more."""
        self._seen.clear()

    @property
    def load(self) -> Load | None:
        return self._seen[-1][1] if self._seen else None

    @property
    def tokens_per_s(self) -> float | None:
        if len(self._seen) < 2:
            return None
        (begun, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last.generated - first.generated) / (ended - begun)


def describe(engine: Engine, looks: Looks, trouble: str | None, wanted: str | None) -> EngineState:
    """All of it."""
    load = looks.load
    circuit = engine.breaker.state
    return EngineState(
        url=engine.url,
        healthy=trouble is None and circuit is Circuit.CLOSED and (wanted is None or engine.serving == wanted),
        serving=engine.serving,
        running=load.running if load else None,
        waiting=load.waiting if load else None,
        cache_usage=load.cache_usage if load else None,
        tokens_per_s=looks.tokens_per_s,
        in_flight=engine.in_flight,
        limit=engine.limit.value,
        circuit=circuit,
        trouble=trouble,
    )


class EngineList(Schema):
    """All engines, as the replica that answers sees them."""

    engines: Sequence[EngineState]
