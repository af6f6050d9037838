"""How often one key may ask: the generic cell rate algorithm, one number a key."""


class RateLimit:
    """`rate` requests a second of each key in the long run, and two seconds' worth of them at once."""

    BURST_S = 2.0

    def __init__(self, rate: float) -> None:
        self._interval = 1.0 / rate
        self._due: dict[str, float] = {}

    def take(self, key: str, now: float) -> float:
        """0 when the request at `now` (monotonic, seconds) is within the limit, else the seconds to wait for it."""
        due = max(self._due.get(key, now), now)
        wait = due + self._interval - now - max(self.BURST_S, self._interval)
        if wait > 0:
            return wait
        self._due[key] = due + self._interval
        return 0.0
