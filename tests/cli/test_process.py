"""Supervision with real child processes: health, restarts, and nothing left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from cli.process import Check, Child, Health, Service, ServiceFailed, supervise
from tests.processes import is_alive

DEADLINE_S = 60.0


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def file_check(path: Path) -> Check:
    async def check() -> bool:
        return path.exists()

    return check


def wait_gone(pids: list[int]) -> list[int]:
    """Those still alive after the deadline."""
    end = time.monotonic() + DEADLINE_S
    while (alive := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < end:
        time.sleep(0.02)
    return alive


def wait_for_lines(path: Path, count: int) -> list[str]:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if path.exists() and len(lines := path.read_text().split()) >= count:
            return lines
        time.sleep(0.02)
    raise AssertionError(f"{path} did not get {count} lines")


FAMILY = """
    import os, subprocess, sys, time
    # A grandchild in a session of its own that refuses SIGTERM, as torchrun's ranks can be.
    grandchild = subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"],
        start_new_session=True,
    )
    with open({pids!r}, "w") as file:
        file.write(f"{{os.getpid()}}\\n{{grandchild.pid}}\\n")
    time.sleep(600)
"""


async def test_the_body_begins_when_all_are_healthy_and_nothing_is_left_afterwards(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def healthy() -> bool:
        return pids.exists() and len(pids.read_text().split()) == 2

    service = Service("family", python(FAMILY.format(pids=str(pids))), healthy, grace_s=5)
    async with supervise([service], tmp_path) as children:
        family = [int(pid) for pid in pids.read_text().split()]
        assert children["family"].health is Health.HEALTHY
        assert all(is_alive(pid) for pid in family)
    assert not [pid for pid in family if is_alive(pid)]


async def test_a_service_starts_after_those_it_needs_and_stops_before_them(tmp_path: Path) -> None:
    events = tmp_path / "events"
    code = """
        import signal, sys, time
        def end(*_):
            open({events!r}, "a").write("stop-{name}\\n"); sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        open({events!r}, "a").write("start-{name}\\n")
        open({mark!r}, "w").close()
        time.sleep(600)
    """

    def service(name: str, after: tuple[str, ...]) -> Service:
        mark = tmp_path / name
        command = python(code.format(events=str(events), name=name, mark=str(mark)))
        return Service(name, command, file_check(mark), after=after)

    async with supervise([service("b", ("a",)), service("a", ())], tmp_path):
        pass
    assert events.read_text().split() == ["start-a", "start-b", "stop-b", "stop-a"]


async def test_a_service_that_dies_is_restarted(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    code = f"""
        import time
        open({str(lives)!r}, "a").write("x\\n")
        time.sleep(600)
    """

    async def written() -> bool:
        return lives.exists() and bool(lives.read_text())

    service = Service("mortal", python(code), written)
    async with supervise([service], tmp_path) as children:
        pid = children["mortal"].pid
        assert pid is not None
        psutil.Process(pid).children()[0].kill()
        await asyncio.to_thread(wait_for_lines, lives, 2)
        assert children["mortal"].restarts == 1


async def test_a_keeper_that_is_killed_leaves_no_descendant(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def healthy() -> bool:
        return pids.exists() and len(pids.read_text().split()) == 2

    service = Service("family", python(FAMILY.format(pids=str(pids))), healthy, restarts=0)
    family: list[int] = []
    with pytest.raises(ServiceFailed, match="SIGKILL"):
        async with supervise([service], tmp_path) as children:
            family = [int(pid) for pid in pids.read_text().split()]
            pid = children["family"].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(DEADLINE_S)
    assert family
    assert not [pid for pid in family if is_alive(pid)]


async def test_restarts_have_a_limit_and_the_failure_shows_the_log(tmp_path: Path) -> None:
    code = "import sys; print('no such model'); sys.exit(3)"
    service = Service("broken", python(code), file_check(tmp_path / "no"), restarts=1)
    with pytest.raises(ServiceFailed) as failure:
        async with supervise([service], tmp_path):
            pytest.fail("the body must not begin")
    text = str(failure.value)
    assert "exit code 3" in text
    assert "Restarted 1 time" in text
    assert str(tmp_path / "broken.log") in text
    assert "no such model" in text


async def test_a_service_that_never_gets_healthy_fails_within_its_deadline_and_ends_the_others(tmp_path: Path) -> None:
    changes: list[tuple[str, Health]] = []

    def note(child: Child) -> None:
        changes.append((child.service.name, child.health))

    async def spoken_and_not_well() -> bool:
        while not (tmp_path / "bad.log").read_text():  # so that the log has something to show
            await asyncio.sleep(0.02)
        return False

    sleeper = ["sh", "-c", "echo waiting for godot; exec sleep 600"]
    good = Service("good", sleeper, file_check(tmp_path))
    bad = Service("bad", sleeper, spoken_and_not_well, deadline_s=1.0)
    with pytest.raises(ServiceFailed, match=r"(?s)bad was not healthy within 1 s.*waiting for godot"):
        async with supervise([good, bad], tmp_path, note):
            pytest.fail("the body must not begin")
    assert ("good", Health.STOPPED) in changes
    assert ("bad", Health.FAILED) in changes


async def test_a_check_that_swallows_its_cancellation_does_not_hold_up_the_end(tmp_path: Path) -> None:
    checked = asyncio.Event()

    async def stubborn() -> bool:
        checked.set()
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            return True
        return False

    async def never() -> bool:
        await checked.wait()
        return False

    held = Service("held", python("import time; time.sleep(600)"), stubborn)
    broken = Service("broken", python("import time; time.sleep(1); raise SystemExit(3)"), never, restarts=0)
    with pytest.raises(ServiceFailed, match="exit code 3"):
        async with asyncio.timeout(DEADLINE_S), supervise([held, broken], tmp_path):
            pytest.fail("the body must not begin")


async def test_an_error_of_the_body_comes_out_as_it_is(tmp_path: Path) -> None:
    service = Service("sleeper", python("import time; time.sleep(600)"), file_check(tmp_path))
    with pytest.raises(KeyError):
        async with supervise([service], tmp_path):
            raise KeyError("mine")


OWNER = """
    import asyncio, pathlib, signal, sys
    from cli.process import Service, supervise
    # A shell's background job ignores SIGINT, and its children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = pathlib.Path(sys.argv[1])
    pids = folder / "pids"
    async def healthy():
        return pids.exists() and len(pids.read_text().split()) == 2
    async def main():
        async with supervise([Service("family", sys.argv[2:], healthy, grace_s=5)], folder):
            (folder / "up").write_text("up\\n")
            await asyncio.sleep(600)
    asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_death_of_the_owner_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    pids = tmp_path / "pids"
    command = [*python(OWNER), str(tmp_path), *python(FAMILY.format(pids=str(pids)))]
    owner = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for_lines(tmp_path / "up", 1)
        family = [int(pid) for pid in pids.read_text().split()]
        keepers = [child.pid for child in psutil.Process(owner.pid).children()]
        owner.send_signal(number)
        owner.wait(DEADLINE_S)
        assert not wait_gone([*family, *keepers])
    finally:
        owner.kill()
