"""The pool of engines: which one takes a request, and what happens when one goes away.

A group stays with one engine, so that its siblings share a prefix cache. A request whose engine dies is
repeated, there or elsewhere, within a deadline; only the turn in flight is lost. An engine takes requests
only while it is known to serve the wanted policy, its breaker is closed and its limit has a free place.
"""

import asyncio
import hashlib
import socket
import time
from collections.abc import Sequence
from functools import cached_property

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.rollout.engines.breaker import Circuit
from services.rollout.engines.control import Control
from services.rollout.engines.engine import Answer, Engine, EngineDown, Sampling
from services.rollout.engines.limit import Limit
from services.rollout.engines.line import Line
from services.rollout.prompts import Message
from services.rollout.settings import RolloutSettings

RETRY_PAUSE_S = 0.5
LEAST_WAIT_S = 0.5
"""Between two looks at the deadline, which stands still while an engine is fit."""
KEEP_ALIVE_S = 2.0
"""Below the 5 s of uvicorn, which vLLM serves with: a connection must not be used as the engine closes it."""
TRUST_S = 20.0
"""How long an engine's word on its policy counts, in a process that was frozen meanwhile, too."""
_PROBING = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds of silence before the first probe of a connection, and between two; how many lost ones end it."""


class Engines:
    """All engines of the service."""

    def __init__(self, settings: RolloutSettings, registry: CollectorRegistry) -> None:
        self._control_client = httpx.AsyncClient(transport=AiohttpTransport(client=lambda: self._session))
        self.members = [
            Engine(url, lambda: self._session, Limit(settings.engine_in_flight_min, settings.engine_in_flight_max))
            for url in settings.engine_urls
        ]
        self.wanted: str | None = None
        """Weights that requests are meant for; see `policy.py`."""
        self.freed = asyncio.Event()
        """Set when there may be more room: after each look at an engine, and by whoever has made some."""
        self.deadline_s = settings.engine_deadline_s
        """Longest that a turn is without a fit engine, and that an engine samples nothing of what it was sent."""
        self._settings = settings
        self.line = Line()
        self._away_s = 0.0
        """How long all together no engine has been fit to be sent requests; stands still while one is."""
        self._noted = time.monotonic()
        self._observe(registry)

    def controls(self, engine: Engine) -> list[Control]:
        """The servers behind an engine's address: itself, or those behind a router."""
        urls = self._settings.engine_control_urls or (engine.url,)
        return [Control(url, self._control_client) for url in urls]

    @property
    def capacity(self) -> int:
        """Requests that may be in flight at once, at the engines that serve the wanted policy."""
        return sum(engine.limit.value for engine in self._usable())

    async def answer(
        self, model: str, messages: Sequence[Message], sampling: Sampling, group: int
    ) -> tuple[Answer, str]:
        """Sample one answer and name the engine it came from.

        Raises `EngineDown` where no engine was fit, or engines failed after the first try, for longer than the
        deadline. Time in the line of engines that are merely busy does not count.
        """
        clock, deadline = time.monotonic, self.deadline_s
        begun, lost, tried = self._away_s, 0.0, False
        while True:
            engine = await self._choose(group, len(messages), begun + deadline - lost)
            sent = clock()
            try:
                answer = await engine.answer(model, messages, sampling, group)
            except EngineDown:
                self._retries.labels(engine.url).inc()
                lost += RETRY_PAUSE_S + (clock() - sent if tried else 0.0)
                tried = True
                if self._away_s - begun + lost > deadline:
                    raise
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            finally:
                self.announce()
            self._turns.labels(engine.url).inc()
            self._tokens.labels(engine.url).inc(len(answer.token_ids))
            return answer, engine.url

    def want(self, weights: str) -> None:
        """Say which weights requests are meant for from now on."""
        if weights != self.wanted:
            self.wanted = weights
            for engine in self.members:
                engine.doubted.set()

    def announce(self) -> None:
        """Wake as many waiting requests as there are free places; also to be called when an engine has come back."""
        usable, now = self._usable(), time.monotonic()
        if not any(engine.breaker.state is Circuit.CLOSED for engine in usable):
            # What is more than that this process itself stood still.
            self._away_s += min(now - self._noted, max(TRUST_S, self.deadline_s / 4))
        self._noted = now
        names = {engine.url for engine in usable}
        for engine in usable:
            for _ in range(engine.places):
                if not self.line.call(engine.url, names):
                    return

    async def close(self) -> None:
        await self._session.close()
        await self._control_client.aclose()

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        """Made at its first use, since it belongs to the running loop; the engines' limits bound its connections."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, socket_factory=_open_socket),
            # An answer may take an hour; whoever watches the engine ends the wait for one that does not come.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _usable(self) -> list[Engine]:
        if self.wanted is None:
            return []
        since = time.monotonic() - TRUST_S
        return [engine for engine in self.members if engine.serving == self.wanted and engine.confirmed > since]

    async def _choose(self, group: int, messages: int, until_s: float) -> Engine:
        arrival, called = self.line.arrive(), False
        while True:
            usable = sorted(self._usable(), key=lambda engine: _affinity(engine.url, group), reverse=True)
            for engine in usable:
                if engine.places > 0 and (called or not self.line.stands_at(engine.url)):
                    return engine
            await self._wait(self.line.join(usable[0].url if usable else "", messages, arrival), until_s)
            called = True

    async def _wait(self, woken: asyncio.Future[None], until_s: float) -> None:
        """Until the request is called; raises `EngineDown` where no engine has been fit for too long."""
        try:
            while not woken.done():
                if self._away_s >= until_s:
                    names = ", ".join(engine.url for engine in self.members)
                    raise EngineDown(
                        f"No engine of {names} served {self.wanted} within {self.deadline_s:.0f} s.",
                        remedy="See the engines' logs, or raise DRIFT_ENGINE_DEADLINE_S.",
                    )
                await asyncio.wait([woken], timeout=max(until_s - self._away_s, LEAST_WAIT_S))
        except (EngineDown, asyncio.CancelledError):
            if not woken.cancel():
                self.announce()  # The place that it was called to is another's.
            raise

    def _observe(self, registry: CollectorRegistry) -> None:
        self._turns = Counter("drift_engine_turns", "Turns sampled", ["engine"], registry=registry)
        self._tokens = Counter("drift_engine_tokens", "Tokens sampled", ["engine"], registry=registry)
        self._retries = Counter("drift_engine_retries", "Turns repeated", ["engine"], registry=registry)
        in_flight = Gauge("drift_engine_in_flight", "Requests in flight", ["engine"], registry=registry)
        limit = Gauge("drift_engine_limit", "Most requests in flight now", ["engine"], registry=registry)
        serving = Gauge("drift_engine_serving", "1 while it serves the wanted policy", ["engine"], registry=registry)
        circuit = Gauge("drift_engine_circuit", "1 for the breaker's state", ["engine", "state"], registry=registry)
        for engine in self.members:
            in_flight.labels(engine.url).set_function(lambda engine=engine: engine.in_flight)
            limit.labels(engine.url).set_function(lambda engine=engine: engine.limit.value)
            serving.labels(engine.url).set_function(lambda engine=engine: engine in self._usable())
            for state in Circuit:
                circuit.labels(engine.url, state).set_function(
                    lambda engine=engine, state=state: engine.breaker.state is state
                )
        waiting = Gauge("drift_engine_queue", "Turns that wait for a place at an engine", registry=registry)
        waiting.set_function(lambda: len(self.line))


def _open_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices a peer that is no more, and keeps a firewall from forgetting a silent connection."""
    family, kind, protocol, *_ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBING.items():
        if option := getattr(socket, name, None):  # Not every system has all.
            opened.setsockopt(socket.IPPROTO_TCP, option, value)
    return opened


def _affinity(url: str, group: int) -> bytes:
    """Rendezvous hashing: when an engine goes, only its own groups move."""
    return hashlib.blake2b(f"{url} {group}".encode(), digest_size=8).digest()
