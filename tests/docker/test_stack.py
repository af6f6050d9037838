"""The real stack in real containers, vLLM, small model and Redis: killed, scaled, stopped, kept and removed.

The tests go through one life of the stack in the order of the file. `make test-docker` runs them.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from cli.generator import generate
from shared.status import JobStatus, State
from tests.docker.compose import ROOT, Project, run, until

pytestmark = pytest.mark.docker

KEY = "a-key-for-the-test-of-the-stack"
TOKEN = {"Authorization": f"Bearer {KEY}"}
GROUPS, SIBLINGS, STEPS = 48, 4, 3
LONG_RUNNING = ("gateway", "verifier", "rollout", "trainer", "engine", "redis")
IMAGES = ("verifier", "rollout", "trainer", "model", "engine", "gateway")
WEB_LIMIT_MB = 200


@pytest.fixture(scope="module")
def stack() -> Iterator[Project]:
    """The project, built; nothing of it is left behind."""
    environment = {
        "DRIFT_TAG": "test",
        "DRIFT_API_KEYS": KEY,
        "DRIFT_PUBLISH_ADDRESS": "0.0.0.0",
        "DRIFT_CHECKPOINT_SECONDS": "0",
        "DRIFT_TORCH_INDEX": os.environ.get("DRIFT_TORCH_INDEX", ""),
        "DOCKER_BUILDKIT": "1",
    }
    project = Project("drift-test", environment)
    project.compose("down", "--volumes", "--timeout", "5")
    with ThreadPoolExecutor() as builders:  # all at once; `compose build` alone goes by `depends_on`
        list(builders.map(lambda image: project.compose("build", image, timeout=3600), IMAGES))
    try:
        yield project
    finally:
        for service in LONG_RUNNING:
            log = project.compose("logs", "--no-color", "--tail", "40", service)
            print(f"==== {service}\n{log}")  # noqa: T201 - shown by pytest where a test failed
        project.compose("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def rollout() -> Iterator[httpx.Client]:
    """The rollout API from outside, patient with a gateway that restarts."""
    with httpx.Client(base_url="http://127.0.0.1:8000", headers=TOKEN, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def life() -> dict[str, str]:
    """What one test leaves for the next: the id of the job."""
    return {}


def read(client: httpx.Client, job: str) -> JobStatus:
    """The job's status, as soon as the service answers."""
    deadline = time.monotonic() + 300
    while True:
        try:
            reply = client.get(f"/v1/jobs/{job}")
            if reply.status_code == 200:
                return JobStatus.model_validate(reply.json())
            trouble = reply.text
        except httpx.TransportError as error:
            trouble = repr(error)
        assert time.monotonic() < deadline, trouble
        time.sleep(0.5)


def await_state(client: httpx.Client, job: str, deadline_s: float) -> JobStatus:
    until(lambda: read(client, job).state.final, f"end of job {job}: {read(client, job).progress}", deadline_s)
    return read(client, job)


def pages(client: httpx.Client, job: str, part: str) -> list[tuple[int, int]]:
    """(group, k) of every trajectory of a part, as recorded."""
    found: list[tuple[int, int]] = []
    after: str | None = None
    while True:
        query = {"part": part, "limit": "100"} | ({"after": after} if after else {})
        page = client.get(f"/v1/jobs/{job}/trajectories", params=query).raise_for_status().json()
        found += [(each["group"], each["k"]) for each in page["trajectories"]]
        after = page["next"]
        if after is None:
            return found


def everyone(stack: Project) -> bool:
    return all(stack.healthy(container) for service in LONG_RUNNING for container in stack.containers(service))


def test_one_command_brings_every_service_to_health(stack: Project) -> None:
    stack.compose("up", "--detach", "--wait", "--wait-timeout", "900", timeout=1000)
    assert all(len(stack.containers(service)) == 1 for service in LONG_RUNNING)
    assert everyone(stack)


def test_the_web_services_images_are_small_and_hold_the_locked_packages(stack: Project) -> None:
    def size(image: str) -> int:
        return int(run("docker", "image", "inspect", "--format", "{{.Size}}", image))

    # Only what is in the virtual environment: the base image brings pip of its own.
    listing = (
        "import sys; from importlib.metadata import distributions as d; "
        "print(*(f'{x.name}=={x.version}' for x in d(path=[p for p in sys.path if 'opt/drift' in p])))"
    )
    base = size("python:3.11-slim")
    for service in ("verifier", "rollout"):
        added = (size(f"drift-{service}:test") - base) / 10**6
        print(f"drift-{service} adds {added:.0f} MB to its base")  # noqa: T201
        assert added < WEB_LIMIT_MB
        inside = stack.python(service, listing)
        locked = (ROOT / f"requirements/images/{service}.txt").read_text().split()
        assert {package.lower().replace("_", "-").replace(".", "-") for package in inside.split()} == {
            package.lower().replace("_", "-").replace(".", "-") for package in locked
        }


def test_containers_run_without_privileges(stack: Project) -> None:
    for service in LONG_RUNNING:
        status = stack.compose("exec", "-T", service, "cat", "/proc/1/status")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        assert "0" not in fields["Uid"].split(), service
        assert (int(fields["CapEff"], 16), fields["NoNewPrivs"].strip()) == (0, "1"), service
        [container] = stack.containers(service)
        assert stack.inspect(container)["HostConfig"]["ReadonlyRootfs"] is True, service


def test_a_port_scan_from_outside_sees_two_ports(stack: Project) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells this machine's address towards others
        address = probe.getsockname()[0]
    assert not address.startswith("127.")

    def scan(ports: range) -> list[int]:
        found = []
        for port in ports:
            with socket.socket() as attempt:
                attempt.settimeout(2)
                # Where nobody listens, a socket may by chance meet itself.
                if attempt.connect_ex((address, port)) == 0 and attempt.getsockname() != attempt.getpeername():
                    found.append(port)
        return found

    with ThreadPoolExecutor(8) as scanners:
        shares = scanners.map(scan, [range(first, min(first + 8192, 65536)) for first in range(1, 65536, 8192)])
        assert [port for share in shares for port in share] == [8000, 8001]


def test_without_a_token_nothing_is_told(stack: Project) -> None:
    for port in (8000, 8001):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            reply = httpx.get(f"http://127.0.0.1:{port}/openapi.json", headers=headers, timeout=30)
            assert reply.status_code == 401, reply.text
        assert httpx.get(f"http://127.0.0.1:{port}/metrics", headers=TOKEN, timeout=30).status_code == 404


def test_redis_asks_for_a_password_and_keeps_dangerous_commands_to_itself(stack: Project) -> None:
    speak = "import redis; print(redis.Redis.from_url(%s).execute_command(*%r))"
    stranger = stack.compose("exec", "-T", "redis", "redis-cli", "PING")
    assert "NOAUTH" in stranger
    own = "open('/run/secrets/drift_redis_url').read()"
    assert "True" in stack.python("rollout", speak % (own, ("PING",)))
    for command in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("GET", "other:key")):
        with pytest.raises(AssertionError, match=r"(?i)no permissions|NOPERM"):
            stack.python("rollout", speak % (own, command))


def test_the_verifier_reaches_neither_redis_nor_the_engine_nor_the_outside(stack: Project) -> None:
    reach = (
        "import socket\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def reached(place):\n"
        "    try:\n"
        "        return bool(socket.create_connection(place, timeout=3))\n"
        "    except OSError:\n"
        "        return False\n"
        "places = ('127.0.0.1', 8001), ('redis', 6379), ('engine', 8100), ('1.1.1.1', 53)\n"
        "print(*ThreadPoolExecutor().map(reached, places))"
    )
    assert stack.python("verifier", reach).split() == ["True", "False", "False", "False"]


def test_a_job_survives_the_sudden_death_of_every_container(
    stack: Project, rollout: httpx.Client, life: dict[str, str]
) -> None:
    made = generate(train=GROUPS, test=2, seed=3)
    spec = {
        "name": "kill-test",
        "dataset": {"problems": [problem.model_dump(exclude_none=True) for problem in made.train]},
        "protocol": {"max_turns": 3},
        "sampling": {"trajectories": SIBLINGS, "max_tokens": 24},
        "train": {"steps": STEPS, "batch_size": 4, "learning_rate": 5e-5},
        "evaluate": [{"problems": [problem.model_dump(exclude_none=True) for problem in made.test]}],
    }
    submitted = rollout.post("/v1/jobs", json=spec)
    assert submitted.status_code == 202, submitted.text
    job = life["job"] = submitted.json()["id"]

    def published() -> int:
        status = read(rollout, job)
        if status.rollouts:  # a fast engine is through before the last kill, which then meets what comes after
            return GROUPS * SIBLINGS
        return status.progress.done if status.progress and status.progress.phase == "rollout" else 0

    def goes_on(beyond: int) -> int:
        goal = min(beyond + 1, GROUPS * SIBLINGS)
        until(lambda: published() >= goal, f"more than {beyond} trajectories: {read(rollout, job).progress}", 600)
        return published()

    done = 0
    for service in ("verifier", "rollout", "gateway", "redis", "engine"):
        done = goes_on(done)
        [container] = stack.containers(service)
        stack.kill(container)
        print(f"killed {service} after {done} of {GROUPS * SIBLINGS} trajectories")  # noqa: T201
    until(lambda: (read(rollout, job).trainings or [None])[-1] is not None, "the training's beginning", 900)
    until(lambda: read(rollout, job).trainings[0].step >= 1, "the first training step", 600)
    [trainer] = stack.containers("trainer")
    stack.kill(trainer)
    status = await_state(rollout, job, 900)
    assert status.state is State.SUCCEEDED, status.error
    assert sorted(pages(rollout, job, "rollout-0")) == [(group, k) for group in range(GROUPS) for k in range(SIBLINGS)]
    assert status.rollouts[0].trajectories == GROUPS * SIBLINGS
    assert (status.rollouts[0].failed, status.rollouts[0].ungraded) == (0, 0)
    assert [each.n for each in status.evaluations] == [2, 2]
    assert status.trainings[0].step == status.trainings[0].steps == STEPS
    listing = stack.python("engine", f"import os, json; print(json.dumps(os.listdir({status.checkpoint!r})))")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(json.loads(listing))
    until(lambda: everyone(stack), "health after the kills", 300)


def test_services_scale_up_share_the_work_and_scale_down(
    stack: Project, rollout: httpx.Client, life: dict[str, str]
) -> None:
    scale = ("up", "--detach", "--no-recreate", "--wait", "--wait-timeout", "540")
    stack.compose(*scale, "--scale", "verifier=3", "--scale", "rollout=2")
    assert (len(stack.containers("verifier")), len(stack.containers("rollout"))) == (3, 2)
    count = (
        "import urllib.request as r; t = r.urlopen('http://127.0.0.1:8001/metrics').read().decode(); "
        "print(sum(float(l.split()[-1]) for l in t.splitlines() if l.startswith('drift_verifier_verdicts_total')))"
    )

    def graded() -> list[float]:
        found = stack.containers("verifier")
        return [float(run("docker", "exec", container, "python", "-c", count)) for container in found]

    item = {"id": "1", "kind": "math", "response": r"\boxed{1}", "answer": "1"}

    def all_work() -> bool:
        reply = httpx.post("http://127.0.0.1:8001/v1/verify", json=item, headers=TOKEN, timeout=30)
        assert reply.status_code == 200, reply.text
        return all(graded())

    until(all_work, "work for every verifier", 180)
    made = generate(train=6, test=1, seed=4)
    spec = {
        "name": "scaled",
        "dataset": {"problems": [problem.model_dump(exclude_none=True) for problem in made.train]},
        "sampling": {"trajectories": 2, "max_tokens": 16},
    }
    job = rollout.post("/v1/jobs", json=spec).raise_for_status().json()["id"]
    stack.kill(stack.containers("rollout")[0])
    status = await_state(rollout, job, 600)
    assert status.state is State.SUCCEEDED, status.error
    assert sorted(pages(rollout, job, "rollout-0")) == [(group, k) for group in range(6) for k in range(2)]
    stack.compose(*scale, "--scale", "verifier=1", "--scale", "rollout=1")
    assert (len(stack.containers("verifier")), len(stack.containers("rollout"))) == (1, 1)
    assert read(rollout, life["job"]).state is State.SUCCEEDED


def test_down_and_up_again_keeps_everything(stack: Project, rollout: httpx.Client, life: dict[str, str]) -> None:
    before = read(rollout, life["job"])
    stack.compose("down", "--timeout", "30")
    stack.compose("up", "--detach")
    assert read(rollout, life["job"]) == before
    assert len(pages(rollout, life["job"], "rollout-0")) == GROUPS * SIBLINGS
    stack.python("rollout", f"import os; os.stat({before.checkpoint!r})")


def test_down_with_volumes_leaves_nothing(stack: Project) -> None:
    assert stack.resources()
    stack.compose("down", "--volumes", "--timeout", "30")
    assert stack.resources() == []
