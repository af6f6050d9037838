"""Symbolic workers: a deadline kills, a death is repaired, memory is limited, and none outlives the server."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import psutil
import pytest
import pytest_asyncio

from services.verifier.metrics import Metrics
from services.verifier.pool import Expired, WorkerPool
from services.verifier.service import Verifier
from services.verifier.settings import VerifierSettings
from services.verifier.task import Outcome, Task
from shared.grading import Verdict, VerifyItem
from tests.processes import is_alive

EASY = Task(pairs=[("1", r"\lim_{x\to 0} \frac{\sin x}{x}")])
ENDLESS = Task(pairs=[(r"2\int \cos(x)^{\sin x} dx", r"3\int \sin(x)^{\cos x} \ln(\tan x) dx")])


GREEDY = r"\boxed{\sum_{k=1}^{n} (k+x+y+z)^{60}}"
"""More than half a million terms when it is multiplied out."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[WorkerPool]:
    async with WorkerPool(VerifierSettings(verifier_workers=2), Metrics()) as workers:
        yield workers


async def test_a_task_is_decided(pool: WorkerPool) -> None:
    outcome = await pool.run(EASY, 20)
    assert isinstance(outcome, Outcome)
    assert outcome.equal is True


async def test_a_deadline_kills_the_worker_and_the_next_task_finds_a_fresh_one(pool: WorkerPool) -> None:
    before = pool.processes
    assert isinstance(await pool.run(ENDLESS, 0.3), Expired)
    outcome = await pool.run(EASY, 20)
    assert isinstance(outcome, Outcome)
    assert outcome.equal is True
    assert len(before & pool.processes) == 1
    await until(lambda: not any(map(is_alive, before - pool.processes)))


async def test_a_worker_at_its_memory_limit_says_so_and_is_replaced() -> None:
    metrics = Metrics()
    settings = VerifierSettings(verifier_workers=1)
    async with WorkerPool(settings, metrics) as pool:
        (pid,) = pool.processes
        worker = psutil.Process(pid)
        room = worker.memory_info().vms + (1 << 20)
        worker.rlimit(psutil.RLIMIT_AS, (room, room))
        item = VerifyItem(id="greedy", response=GREEDY, answer="x", deadline_ms=30_000)
        (result,) = await Verifier(settings, pool, metrics).verify([item])
        assert result.verdict == Verdict.ERROR
        assert "memory limit" in (result.detail or "")
        assert pid not in pool.processes
        outcome = await pool.run(EASY, 20)
        assert isinstance(outcome, Outcome)
        assert outcome.equal is True


async def test_a_worker_killed_at_rest_is_replaced_unseen(pool: WorkerPool) -> None:
    for pid in pool.processes:
        os.kill(pid, signal.SIGKILL)
    outcome = await pool.run(EASY, 20)
    assert isinstance(outcome, Outcome)
    assert outcome.equal is True


async def test_a_worker_killed_at_work_has_its_task_tried_once_more(pool: WorkerPool) -> None:
    running = asyncio.create_task(pool.run(ENDLESS, 60))
    for _ in range(2):
        await until(lambda: bool(pool.busy))
        (pid,) = pool.busy
        os.kill(pid, signal.SIGKILL)
        await until(lambda pid=pid: pid not in pool.busy)
    outcome = await running
    assert isinstance(outcome, Outcome)
    assert outcome.equal is None
    assert "died twice" in (outcome.failure or "")


async def test_a_dead_zygote_is_started_again(pool: WorkerPool) -> None:
    assert isinstance(await pool.run(EASY, 20), Outcome)
    zygote = psutil.Process(next(iter(pool.processes))).parent()
    assert zygote is not None
    for pid in (zygote.pid, *pool.processes):
        os.kill(pid, signal.SIGKILL)
    outcome = await pool.run(EASY, 30)
    assert isinstance(outcome, Outcome)
    assert outcome.equal is True


async def test_heavy_tasks_leave_room_for_others(pool: WorkerPool) -> None:
    heavy = [asyncio.create_task(pool.run(ENDLESS, 60, heavy=True)) for _ in range(4)]
    await until(lambda: bool(pool.busy))
    outcome = await pool.run(EASY, 20)
    assert isinstance(outcome, Outcome)
    assert outcome.equal is True
    assert not any(task.done() for task in heavy)
    for task in heavy:
        task.cancel()
    await asyncio.gather(*heavy, return_exceptions=True)


async def test_workers_are_replaced_after_their_tasks_and_none_outlives_the_pool() -> None:
    seen: set[int] = set()
    async with WorkerPool(VerifierSettings(verifier_workers=1, verifier_worker_tasks=2), Metrics()) as pool:
        for _ in range(5):
            assert isinstance(await pool.run(EASY, 20), Outcome)
            seen |= pool.processes
    assert len(seen) == 3
    await until(lambda: not any(map(is_alive, seen)))


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition; `AssertionError` after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition never held"
        await asyncio.sleep(0.01)
