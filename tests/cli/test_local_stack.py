"""The local stack: what it starts with which settings, one at a time, and what it says when it cannot start."""

import asyncio
import fcntl
import socket
from pathlib import Path

import psutil
import pytest

from cli.local_stack import StackState, plan_services, read_state, run_stack
from cli.ports import choose_free
from cli.process import Service, supervise
from cli.settings import LocalSettings
from shared.errors import Conflict, SettingsError
from shared.stream import connect


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalSettings:
    """Settings of a stack in a folder of its own, on free ports."""
    monkeypatch.chdir(tmp_path)
    ports = choose_free(dict.fromkeys(("redis_port", "engine_port", "verifier_port", "rollout_port"), 0))
    return LocalSettings(stack_root=tmp_path / "stack", runs_root=tmp_path / "runs").model_copy(update=ports)


def by_name(services: list[Service]) -> dict[str, Service]:
    return {service.name: service for service in services}


def test_every_part_is_started_and_told_where_the_others_are(local: LocalSettings) -> None:
    services = by_name(plan_services(local, "/models/small"))
    assert list(services) == ["valkey", "engine", "verifier", "rollout", "trainer"]
    told = services["rollout"].environment
    assert told["DRIFT_REDIS_URL"] == f"redis://127.0.0.1:{local.redis_port}/0"
    assert told["DRIFT_ENGINE_URLS"] == f"http://127.0.0.1:{local.engine_port}"
    assert told["DRIFT_VERIFIER_URL"] == f"http://127.0.0.1:{local.verifier_port}"
    assert told["DRIFT_RUNS_ROOT"] == str(local.runs_root.resolve())
    assert services["trainer"].environment["DRIFT_REDIS_URL"] == told["DRIFT_REDIS_URL"]
    assert "/models/small" in services["engine"].command
    assert services["engine"].environment["VLLM_SERVER_DEV_MODE"] == "1"
    assert "127.0.0.1" in services["engine"].command


def test_redis_and_engines_that_exist_are_used_and_not_started(local: LocalSettings) -> None:
    given = {"redis_url": "redis://elsewhere:6379/1", "engine_urls": ("http://gpu:8100", "http://gpu:8101")}
    services = by_name(plan_services(local.model_copy(update=given), "x"))
    assert list(services) == ["verifier", "rollout", "trainer"]
    told = services["rollout"].environment
    assert told["DRIFT_REDIS_URL"] == "redis://elsewhere:6379/1"
    assert told["DRIFT_ENGINE_URLS"] == "http://gpu:8100,http://gpu:8101"


async def test_a_taken_port_is_named_before_anything_starts(local: LocalSettings) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = local.model_copy(update={"verifier_port": server.getsockname()[1]})
        with pytest.raises(SettingsError, match="DRIFT_VERIFIER_PORT"):
            async with run_stack(taken, "x"):
                pytest.fail("the body must not begin")
    assert read_state(local.stack_root) is None


async def test_a_second_stack_in_the_same_folder_is_refused(local: LocalSettings) -> None:
    local.stack_root.mkdir()
    with (local.stack_root / "stack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="drift down"):
            async with run_stack(local, "x"):
                pytest.fail("the body must not begin")


def test_the_state_of_a_stack_that_was_killed_is_not_believed(local: LocalSettings) -> None:
    root = local.stack_root
    root.mkdir()
    (root / "stack.lock").touch()
    state = StackState(pid=1, started=0.0, rollout_url="http://127.0.0.1:1", services=[])
    (root / "stack.json").write_text(state.model_dump_json())
    assert read_state(root) is None
    with (root / "stack.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_state(root) == state


async def test_what_valkey_was_told_is_there_after_a_crash_and_after_a_stop(local: LocalSettings) -> None:
    valkey = by_name(plan_services(local, "x"))["valkey"]
    url = f"redis://127.0.0.1:{local.redis_port}/0"
    async with supervise([valkey], local.logs) as children, connect(url) as redis:
        await redis.set("a", "1")
        await redis.waitaof(1, 0, 5000)
        child = children["valkey"]
        assert child.pid is not None
        child.ready.clear()
        psutil.Process(child.pid).children()[0].kill()
        await asyncio.wait_for(child.ready.wait(), 60)
        assert await redis.get("a") == "1"
        await redis.set("b", "2")
    async with supervise([valkey], local.logs), connect(url) as redis:
        assert [await redis.get("a"), await redis.get("b")] == ["1", "2"]
