"""The line of requests before the engines: each stands at the engine that has its group's prefix cached.

They go in the order of their arrival. At the end of a job the shortest conversation goes first, since who has most
turns left would else end last, alone.
"""

import asyncio
import heapq
import itertools
from collections import defaultdict
from collections.abc import Collection

_Place = tuple[int, int, asyncio.Future[None]]
"""What goes before: messages of the conversation where that counts, then arrival."""


class Line:
    """Requests that wait for a place at an engine."""

    def __init__(self) -> None:
        self.shortest_first = False
        """Of those that join from now on: whether the job is at its end."""
        self._heaps: defaultdict[str, list[_Place]] = defaultdict(list)
        """By engine."""
        self._arrivals = itertools.count()

    def __len__(self) -> int:
        return sum(not woken.done() for heap in self._heaps.values() for *_, woken in heap)

    def arrive(self) -> int:
        """A number in the order of arrival, which is kept when a request has to wait again."""
        return next(self._arrivals)

    def join(self, engine: str, messages: int, arrival: int) -> asyncio.Future[None]:
        """What is done when there is a place, at this engine or another; cancelled by who does not wait any more."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._heaps[engine], (messages if self.shortest_first else 0, arrival, woken))
        return woken

    def stands_at(self, engine: str) -> bool:
        """Whether anybody waits at this engine."""
        heap = self._heaps[engine]
        while heap and heap[0][-1].done():
            heapq.heappop(heap)
        return bool(heap)

    def call(self, engine: str, usable: Collection[str]) -> bool:
        """Wake the first who waits at this engine or at one that is away, else whoever waits elsewhere, if anybody."""
        standing = [name for name in list(self._heaps) if self.stands_at(name)]
        near = [name for name in standing if name == engine or name not in usable] or standing
        if not near:
            return False
        *_, woken = heapq.heappop(min((self._heaps[name] for name in near), key=lambda heap: heap[0][:2]))
        woken.set_result(None)
        return True
