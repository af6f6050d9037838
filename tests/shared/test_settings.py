"""A wrong setting names itself and its remedy, on the command line of every service."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("service", "variable", "value", "said"),
    [
        ("verifier", "DRIFT_VERIFIER_PORT", "abc", "valid integer"),
        ("verifier", "DRIFT_VERIFIER_HOST", "0.0.0.0", "DRIFT_API_KEYS"),
        ("rollout", "DRIFT_ROLLOUT_PORT", "99999", "less than or equal to 65535"),
        ("rollout", "DRIFT_ROLLOUT_HOST", "::", "DRIFT_API_KEYS"),
        ("rollout", "DRIFT_ENGINE_URLS", "localhost:1", "http://"),
        ("rollout", "DRIFT_REDIS_URL", "localhost", "redis://"),
        ("rollout", "DRIFT_API_KEYS", "schlüssel", "printable ASCII"),
    ],
)
def test_a_wrong_setting_names_itself_and_its_remedy(service: str, variable: str, value: str, said: str) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("DRIFT_")}
    ended = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        env=environment | {variable: value},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode == 1
    assert variable in ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
