"""A bell: what changes within this process is seen at once, what other replicas change at the next look.

Looking costs a Redis command, an engine's cores are often the same machine's: so looks are rare.
"""

import asyncio
import contextlib


class Bell:
    """Wakes everybody who listens."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """The next ring. To be taken before one looks: then what changes meanwhile is not missed."""
        return self._next

    def ring(self) -> None:
        self._next.set()
        self._next = asyncio.Event()


async def wait(ring: asyncio.Event, seconds: float) -> None:
    """Return at the ring, after so many seconds at the latest."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ring.wait()
