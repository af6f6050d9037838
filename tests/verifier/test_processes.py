"""The service as a program: several server processes behind one port, and a clean end."""

import os
import subprocess
import sys

import httpx
import psutil
import pytest

from shared.grading import Verdict, VerifyItem
from shared.verifier_client import BlockingVerifierClient
from tests.processes import is_alive

START_SECONDS = 60
STOP_SECONDS = 30


@pytest.mark.slow
def test_several_server_processes_share_a_port_and_stop_together() -> None:
    port = free_port()
    environment = {
        **os.environ,
        "DRIFT_VERIFIER_PORT": str(port),
        "DRIFT_VERIFIER_HOST": "127.0.0.1",
        "DRIFT_VERIFIER_PROCESSES": "2",
        "DRIFT_VERIFIER_WORKERS": "1",
        "DRIFT_API_KEYS": "",
    }
    server = subprocess.Popen([sys.executable, "-m", "services.verifier"], env=environment)
    try:
        with BlockingVerifierClient(f"http://127.0.0.1:{port}") as client:
            client.wait_until_ready(START_SECONDS)
            items = [VerifyItem(id=str(place), response=f"{place}/2", answer=f"{place}*0.5") for place in range(50)]
            assert {result.verdict for result in client.verify(items)} == {Verdict.CORRECT}
        assert "drift_verifier_verdicts_total" in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
        family = [process.pid for process in psutil.Process(server.pid).children(recursive=True)]
        assert len(family) >= 4  # two servers, a zygote each, and their workers
    finally:
        server.terminate()
        server.wait(STOP_SECONDS)
    psutil.wait_procs([psutil.Process(pid) for pid in family if psutil.pid_exists(pid)], STOP_SECONDS)
    assert not any(map(is_alive, family))


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
