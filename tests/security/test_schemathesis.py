"""Schemathesis over both OpenAPI documents: whatever is sent, no answer is a 5xx.

DRIFT_API_EXAMPLES sets how many requests an operation gets.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error

from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings
from tests.conftest import second_try, serve_valkey
from tests.fakes.engine import FakeEngine, Serving, build_app

fuzz = settings(
    max_examples=int(os.environ.get("DRIFT_API_EXAMPLES", "20")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)


@pytest.fixture(scope="module")
def rollout_schema(verifier_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    """The rollout service with a scripted engine; the hub is out of reach."""
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    fake = FakeEngine(second_try)
    with pytest.MonkeyPatch.context() as patch, serve_valkey() as redis_url, Serving(build_app(fake)) as engine_url:
        patch.setenv("HF_HUB_OFFLINE", "1")
        service = RolloutSettings(
            _env_file=None,  # pyright: ignore[reportCallIssue]
            redis_url=redis_url,
            runs_root=folder / "runs",
            data_root=folder,
            engine_urls=(engine_url,),
            verifier_url=verifier_url,
        )
        with Serving(create_app(service)) as url:
            yield schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.fixture(scope="module")
def verifier_schema(verifier_url: str) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{verifier_url}/openapi.json")


rollout = schemathesis.pytest.from_fixture("rollout_schema")
verifier = schemathesis.pytest.from_fixture("verifier_schema")


@pytest.mark.slow
@rollout.parametrize()
@fuzz
def test_the_rollout_service_never_answers_5xx(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=[not_a_server_error], timeout=30)


@pytest.mark.slow
@verifier.parametrize()
@fuzz
def test_the_verifier_never_answers_5xx(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=[not_a_server_error], timeout=30)
