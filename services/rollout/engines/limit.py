"""How many requests may be in flight at one engine: as many as it runs at once, and a short queue behind them.

An engine that has a request waiting never idles between two batches; one that has thousands waiting gains nothing and
answers late. Several processes may share an engine: each gives way in proportion to what it has there, and takes
more in equal steps, so that their shares draw together.
"""

from dataclasses import dataclass

QUEUE_SHARE = 8
"""The wanted queue is this fraction of the running requests: what ends between two looks is replaced at once."""
LEAST_QUEUE = 4
FULL_CACHE = 0.9
"""Beyond this share of the key-value cache more requests would only push others out."""
START = 64
"""Before the engine has said anything, and for one that never does."""


@dataclass(frozen=True)
class Load:
    """What an engine says of itself, all its clients together."""

    running: int
    waiting: int
    cache_usage: float = 0.0
    """Share of the key-value cache in use, 0 to 1."""
    generated: float = 0.0
    """Tokens sampled since the engine was started."""

    def __add__(self, other: "Load") -> "Load":
        """Both engines behind one address."""
        usage = max(self.cache_usage, other.cache_usage)
        generated = self.generated + other.generated
        return Load(self.running + other.running, self.waiting + other.waiting, usage, generated)


class Limit:
    """The limit of one process at one engine, between `floor` and `ceiling`."""

    def __init__(self, floor: int, ceiling: int) -> None:
        self._floor = min(floor, ceiling)
        self._ceiling = ceiling
        self._crowded = False
        self.value = min(max(START, floor), ceiling)

    def update(self, load: Load, in_flight: int) -> None:
        """Follow one look at the engine; `in_flight` is the most that this process had there since the last one."""
        wanted = max(LEAST_QUEUE, load.running // QUEUE_SHARE)
        crowded = load.waiting > 2 * wanted
        if crowded and self._crowded:
            # Twice in a row: requests that have only just arrived count as waiting, too.
            self._set(in_flight * (load.running + wanted) // (load.running + load.waiting))
        elif load.waiting < wanted and 2 * in_flight >= self.value and load.cache_usage < FULL_CACHE:
            # Half of them in flight is enough to ask for more: the others' answers are being graded. Twice as much only
            # when it has counted what it was sent, which vLLM does after a step: one full of prompts takes seconds.
            counted = 4 * (load.running + load.waiting) >= 3 * in_flight
            self._set(self.value + (self.value if load.waiting == 0 and counted else wanted // 2))
        self._crowded = crowded

    def _set(self, value: int) -> None:
        self.value = min(max(value, self._floor), self._ceiling)
