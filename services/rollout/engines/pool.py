"""The pool of engines: which one takes a request, and what happens when one goes away.

A group stays with one engine, so that its siblings share a prefix cache. A request whose engine dies is
repeated, there or elsewhere, within a deadline; only the turn in flight is lost. An engine takes requests
only while it is known to serve the wanted policy.
"""

import asyncio
import hashlib
from collections.abc import Sequence

import httpx
from httpx_aiohttp import AiohttpTransport
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.rollout.engines.engine import Answer, Engine, EngineDown, Sampling, ServedModel
from services.rollout.prompts import Message
from services.rollout.settings import RolloutSettings

RETRY_PAUSE_S = 0.5
KEEP_ALIVE_S = 2.0
"""Below the 5 s of uvicorn, which vLLM serves with: a connection must not be used as the engine closes it."""


class Engines:
    """All engines of the service."""

    def __init__(self, settings: RolloutSettings, registry: CollectorRegistry) -> None:
        limit = settings.engine_concurrency * len(settings.engine_urls)
        # httpx's own transport looks through all connections at every request: 3 ms each with 64 of them.
        self._client = httpx.AsyncClient(
            transport=AiohttpTransport(limits=httpx.Limits(max_connections=limit + 16, keepalive_expiry=KEEP_ALIVE_S)),
            timeout=httpx.Timeout(settings.engine_deadline_s, connect=10.0),
        )
        self.members = [Engine(url, self._client) for url in settings.engine_urls]
        self.wanted: str | None = None
        """Weights that requests are meant for; see `policy.py`."""
        self.wish = asyncio.Event()
        """Set when other weights are wanted than before."""
        self._settings = settings
        self._freed = asyncio.Condition()
        self._turns = Counter("drift_engine_turns", "Turns sampled", ["engine"], registry=registry)
        self._tokens = Counter("drift_engine_tokens", "Tokens sampled", ["engine"], registry=registry)
        self._retries = Counter("drift_engine_retries", "Turns repeated", ["engine"], registry=registry)
        in_flight = Gauge("drift_engine_in_flight", "Requests in flight", ["engine"], registry=registry)
        for engine in self.members:
            in_flight.labels(engine.url).set_function(lambda engine=engine: engine.in_flight)

    @property
    def capacity(self) -> int:
        """Requests that may be in flight at once."""
        return self._settings.engine_concurrency * len(self.members)

    async def answer(
        self, model: str, messages: Sequence[Message], sampling: Sampling, group: int
    ) -> tuple[Answer, str]:
        """Sample one answer and name the engine it came from; raises `EngineDown` after the deadline."""
        deadline = asyncio.get_running_loop().time() + self._settings.engine_deadline_s
        while True:
            engine = await self._choose(group, deadline)
            try:
                answer = await engine.answer(model, messages, sampling)
            except EngineDown:
                self._retries.labels(engine.url).inc()
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            finally:
                await self.announce()
            self._turns.labels(engine.url).inc()
            self._tokens.labels(engine.url).inc(len(answer.token_ids))
            return answer, engine.url

    def want(self, weights: str) -> None:
        """Say which weights requests are meant for from now on."""
        if weights != self.wanted:
            self.wanted = weights
            self.wish.set()

    async def announce(self) -> None:
        """Wake the requests that wait for an engine: a place is free, or an engine has come back."""
        async with self._freed:
            self._freed.notify_all()

    async def served_model(self) -> ServedModel:
        """What the engines serve, asked of the first that answers."""
        refusal: EngineDown | None = None
        for engine in self.members:
            try:
                return await engine.served_model(self._settings.engine_model)
            except EngineDown as error:
                refusal = error
        raise refusal or EngineDown("No engine is set.", remedy="Set DRIFT_ENGINE_URLS.")

    async def close(self) -> None:
        await self._client.aclose()

    async def _choose(self, group: int, deadline: float) -> Engine:
        async with self._freed:
            while True:
                usable = [engine for engine in self.members if self.wanted and engine.serving == self.wanted]
                free = [engine for engine in usable if engine.in_flight < self._settings.engine_concurrency]
                if free:
                    return max(free, key=lambda engine: _affinity(engine.url, group))
                remaining = deadline - asyncio.get_running_loop().time()
                try:
                    await asyncio.wait_for(self._freed.wait(), remaining)
                except TimeoutError:
                    names = ", ".join(engine.url for engine in self.members)
                    raise EngineDown(
                        f"No engine of {names} served {self.wanted} within {self._settings.engine_deadline_s:.0f} s.",
                        remedy="See the engines' logs, or raise DRIFT_ENGINE_DEADLINE_S.",
                    ) from None


def _affinity(url: str, group: int) -> bytes:
    """Rendezvous hashing: when an engine goes, only its own groups move."""
    return hashlib.blake2b(f"{url} {group}".encode(), digest_size=8).digest()
