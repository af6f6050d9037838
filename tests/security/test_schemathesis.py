"""Schemathesis over both OpenAPI documents: whatever is sent, no answer is a 5xx.

DRIFT_API_EXAMPLES sets how many requests an operation gets (`make test-api`).
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings
from tests.conftest import second_try, serve_valkey
from tests.fakes.engine import FakeEngine, Serving, build_app

EXAMPLES = os.environ.get("DRIFT_API_EXAMPLES", "5")
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest.fixture
def rollout_url(verifier_url: str, tmp_path: Path) -> Iterator[str]:
    """The rollout service with a scripted engine; the hub is out of reach."""
    with pytest.MonkeyPatch.context() as patch, serve_valkey() as redis_url:
        patch.setenv("HF_HUB_OFFLINE", "1")
        with Serving(build_app(FakeEngine(second_try))) as engine_url:
            settings = RolloutSettings(
                _env_file=None,  # pyright: ignore[reportCallIssue]
                redis_url=redis_url,
                runs_root=tmp_path / "runs",
                data_root=tmp_path,
                engine_urls=(engine_url,),
                verifier_url=verifier_url,
            )
            with Serving(create_app(settings)) as url:
                yield url


def attack(url: str, folder: Path) -> None:
    """Generated and mutated requests, valid and not, to every operation; some follow each other."""
    command = [
        SCHEMATHESIS, "run", f"{url}/openapi.json", "--checks", "not_a_server_error", "--mode", "all", "--max-examples",
        EXAMPLES, "--generation-deterministic", "--request-timeout", "60", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    [(generated, passed)] = re.findall(r"(\d+) generated, (\d+) passed", done.stdout)
    assert int(passed) == int(generated) > 50


@pytest.mark.slow
def test_the_rollout_service_never_answers_5xx(rollout_url: str, tmp_path: Path) -> None:
    attack(rollout_url, tmp_path)


@pytest.mark.slow
def test_the_verifier_never_answers_5xx(verifier_url: str, tmp_path: Path) -> None:
    attack(verifier_url, tmp_path)
