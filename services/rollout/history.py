"""A job's history: samples of the sums over its active part, for curves over time.

Samples come close together at first and further apart with the part's age, so that a part of a week has about as
many as one of some hours: their number grows with the logarithm of the time.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.rollout.jobs import Jobs, Part
from shared import keys
from shared.schema import Schema
from shared.telemetry import get_logger

CLOSEST_S = 2.0
"""Least time between two samples."""
DENSITY = 180
"""A sample is due after 1/180 of the part's age: 180 in each e-fold of time."""
log = get_logger(__name__)


class Sample(Schema):
    """What a part had summed up at one time."""

    time: float
    """Unix time, seconds."""
    part: str
    sums: dict[str, float]
    """See `evaluation.count`."""
    in_flight: int
    """Requests at the engines from the sampling replica."""


class Conductorship(Protocol):
    """Says whether this replica conducts."""

    conducting: bool


class History:
    """Samples of all jobs; written by the replica that conducts."""

    def __init__(self, redis: Redis, jobs: Jobs, conductor: Conductorship, in_flight: Callable[[], int]) -> None:
        self._redis = redis
        self._jobs = jobs
        self._conductor = conductor
        self._in_flight = in_flight

    async def keep(self) -> None:
        """Sample the active part while this replica conducts, until cancelled."""
        begun, last, name = 0.0, 0.0, ""
        while True:
            await asyncio.sleep(CLOSEST_S / 2)
            if not self._conductor.conducting:
                continue
            now = time.time()
            try:
                part = await self._jobs.active()
                if part is None:
                    continue
                if (part.job + part.name) != name:
                    begun, last, name = now, 0.0, part.job + part.name
                if now - last >= max(CLOSEST_S, (now - begun) / DENSITY):
                    await self._sample(part, now)
                    last = now
            except RedisError as error:
                log.warning("sample_missed", error=str(error))

    async def read(self, job: str) -> list[Sample]:
        """All samples of a job, the oldest first."""
        return [Sample.model_validate_json(sample) for sample in await self._redis.lrange(keys.history(job), 0, -1)]

    async def _sample(self, part: Part, now: float) -> None:
        sums = await self._jobs.counts(part.job, part.name)
        sample = Sample(time=now, part=part.name, sums=sums, in_flight=self._in_flight())
        await self._redis.rpush(keys.history(part.job), sample.model_dump_json())
