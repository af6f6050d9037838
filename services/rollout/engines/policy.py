"""Keeps every engine on the wanted policy: after a training, and after an engine has been restarted.

The conductor loads; every replica only uses an engine whose record in Redis says that this very engine
process was given the wanted weights. A restarted engine is back on the weights that it was started with,
so a record holds the process's start time, and an engine that tells none is loaded anew by each conductor.
"""

import asyncio
import contextlib
import json

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.rollout.engines.engine import Engine, EngineDown, Refused
from services.rollout.engines.pool import Engines
from shared import keys
from shared.telemetry import get_logger

WATCH_S = 1.0
log = get_logger(__name__)


class Policies:
    """Watches the engines of one replica."""

    def __init__(self, redis: Redis, engines: Engines) -> None:
        self._redis = redis
        self._engines = engines
        self._loaded: dict[str, str] = {}
        self.conducting = False
        """Whether this replica may load weights."""
        self.trouble: str | None = None
        """Why the wanted policy could not be loaded, for the job's progress."""

    async def watch(self) -> None:
        """Look at every engine, again and again, until cancelled."""
        while True:
            try:
                await asyncio.gather(*(self._look_after(engine) for engine in self._engines.members))
            except (RedisError, EngineDown) as error:
                self.trouble = str(error)
                log.warning("engine_trouble", error=str(error))
            await self._engines.announce()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._engines.wish.wait(), WATCH_S)
            self._engines.wish.clear()

    def served(self, weights: str) -> bool:
        """Whether any engine serves these weights now."""
        return any(engine.serving == weights for engine in self._engines.members)

    async def _look_after(self, engine: Engine) -> None:
        wanted = self._engines.wanted
        if wanted is None:
            return
        if not await engine.healthy():
            engine.serving = None
            self._loaded.pop(engine.url, None)
            self.trouble = f"The engine at {engine.url} does not answer its health check."
            return
        if engine.serving == wanted:
            return
        born = await engine.born()
        record = json.dumps({"weights": wanted, "born": born})
        known = await self._redis.hget(keys.ENGINE_POLICIES, engine.url)
        if self.conducting and (known != record or (born is None and self._loaded.get(engine.url) != wanted)):
            await self._load(engine, wanted)
            await self._redis.hset(keys.ENGINE_POLICIES, engine.url, record)
            known = record
        if known == record:
            engine.serving = wanted
            self.trouble = None

    async def _load(self, engine: Engine, weights: str) -> None:
        started_with = (await engine.served_model()).root
        untouched = not await self._redis.hexists(keys.ENGINE_POLICIES, engine.url)
        try:
            if not (untouched and weights == started_with):
                await engine.load(weights)
        except Refused:
            # An engine without the reload routes can only ever serve what it was started with.
            if weights != started_with:
                raise
        self._loaded[engine.url] = weights
        log.info("policy_loaded", engine=engine.url, weights=weights)
