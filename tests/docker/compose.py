"""Docker's command line as the tests use it: one project, its containers by service, what they say of themselves."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command: str, environment: Mapping[str, str] | None = None, timeout: float = 600.0) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        command, env=os.environ | dict(environment or {}), cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def until(holds: Callable[[], object], what: str, deadline_s: float) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {deadline_s:.0f} s: {what}"
        time.sleep(0.5)


@dataclass(frozen=True)
class Project:
    """One compose project; settings come from `environment` alone, not from a developer's `.env`."""

    name: str
    environment: Mapping[str, str]

    def compose(self, *arguments: str, timeout: float = 600.0) -> str:
        """`docker compose ...` for this project."""
        command = ("docker", "compose", "--project-name", self.name, "--env-file", os.devnull)
        return run(*command, *arguments, environment=self.environment, timeout=timeout)

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers."""
        return self.compose("ps", "--all", "--quiet", service).split()

    def inspect(self, container: str) -> dict[str, dict[str, object]]:
        """All that Docker knows of a container."""
        return json.loads(run("docker", "inspect", container))[0]

    def python(self, service: str, code: str) -> str:
        """What a Python program prints inside a service's first container."""
        return self.compose("exec", "-T", service, "python", "-c", code)

    def kill(self, container: str) -> None:
        """SIGKILL to the main process; returns when the restart policy has begun it anew."""
        before = self.inspect(container)
        os.kill(int(str(before["State"]["Pid"])), signal.SIGKILL)

        def started_anew() -> bool:
            state = self.inspect(container)["State"]
            return state["Status"] == "running" and state["StartedAt"] != before["State"]["StartedAt"]

        until(started_anew, f"restart of {before['Name']}", 180)

    def healthy(self, container: str) -> bool:
        """Whether the container's health check passes."""
        health = self.inspect(container)["State"].get("Health")
        return isinstance(health, dict) and health["Status"] == "healthy"

    def resources(self) -> list[str]:
        """Containers, volumes and networks that exist under this project's name."""
        label = f"label=com.docker.compose.project={self.name}"
        kinds = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [line for kind in kinds for line in run("docker", *kind, "--quiet", "--filter", label).split()]
