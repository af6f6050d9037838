"""Jobs are refused clearly, cancelled and paused within seconds, and made once for one idempotency key."""

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from services.rollout import steps, worker
from services.rollout.app import create_app
from services.rollout.engines.line import Line
from services.rollout.problems import files
from services.rollout.settings import RolloutSettings
from shared import keys
from shared.status import State
from shared.training import TrainingState, TrainingStatus
from tests.fakes.engine import FakeEngine, Message, Serving
from tests.rollout.client import PROBLEMS, finish, submit, until


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dataset": {"path": "none.jsonl"}}, "none.jsonl"),
        ({"dataset": {"path": "../../etc/passwd"}}, "dataset.path"),
        ({"dataset": {}}, "exactly one"),
        ({"dataset": None}, "dataset"),
        ({"dataset": {"problems": [{**PROBLEMS[0], "answer": "Z"}]}}, "problems[0], field answer"),
        ({"sampling": {"temperature": -1}}, "sampling.temperature"),
        ({"sampling": {"seed": 1}}, "sampling.seed"),
        ({"protocol": {"template": "nonsense"}}, "protocol.template"),
        ({"protocol": {"template": "{{ problem"}}, "protocol.template"),
        ({"train": {"steps": 1, "epochs": 1}}, "not both"),
        ({"evaluate": [{"path": "none.jsonl"}]}, "none.jsonl"),
    ],
)
async def test_a_bad_spec_is_refused_before_a_token_is_generated(
    service: httpx.AsyncClient, engine: FakeEngine, change: dict[str, object], named: str
) -> None:
    reply = await service.post("/v1/jobs", json={"dataset": {"problems": PROBLEMS}} | change)
    assert reply.status_code == 422
    assert reply.headers["content-type"] == "application/problem+json"
    assert named in reply.json()["detail"]
    assert reply.json()["remedy"]
    assert not engine.requests


async def test_an_unknown_job_is_not_found(service: httpx.AsyncClient) -> None:
    for path in ("", "/trajectories", "/spec"):
        reply = await service.get(f"/v1/jobs/20260101-000000-abcdef{path}")
        assert (reply.status_code, reply.json()["status"]) == (404, 404)


async def test_a_job_counts_its_dead_letters(service: httpx.AsyncClient, redis: Redis) -> None:
    job = await submit(service)
    await redis.xadd(keys.dead_letters(job), {"payload": "{", "reason": "Invalid JSON"})
    assert (await finish(service, job)).dead_letters == 1


async def test_one_idempotency_key_makes_one_job(service: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"dataset": {"problems": PROBLEMS}}
    first, second = [(await service.post("/v1/jobs", json=body, headers=headers)).json()["id"] for _ in range(2)]
    assert first == second
    assert len((await service.get("/v1/jobs")).json()["jobs"]) == 1
    other = await service.post("/v1/jobs", json=body | {"name": "other"}, headers=headers)
    assert other.status_code == 409


def slow_down_after_the_probe(engine: FakeEngine) -> None:
    """The engine's first answer, by which a job looks whether it is fit, comes at once, and the others never."""

    def answer(messages: Sequence[Message], weights: str) -> str:
        engine.latency_s = 3600
        return "A"

    engine.script = answer


@pytest.mark.parametrize("phase", ["prepare", "rollout"])
async def test_cancelling_ends_the_job_and_leaves_no_request_behind(
    settings: RolloutSettings, engine: FakeEngine, phase: str
) -> None:
    if phase == "rollout":
        slow_down_after_the_probe(engine)
    else:
        engine.latency_s = 3600
    with Serving(create_app(settings.model_copy(update={"engine_deadline_s": 3600}))) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as service:
            await cancel_in_flight(service, engine, phase)


async def cancel_in_flight(service: httpx.AsyncClient, engine: FakeEngine, phase: str) -> None:
    job = await submit(service)
    await until(service, job, lambda status: status.phase == phase and engine.latency_s > 0 and engine.in_flight > 0)
    assert (await service.delete(f"/v1/jobs/{job}")).status_code == 202
    assert (await finish(service, job)).state is State.CANCELLED
    async with asyncio.timeout(60):
        while engine.in_flight:
            await asyncio.sleep(0.02)
    assert (await service.delete(f"/v1/jobs/{job}")).status_code == 202
    assert (await service.post(f"/v1/jobs/{job}/pause")).status_code == 409


async def test_a_fault_of_the_service_itself_costs_its_trajectory_and_does_not_come_back_for_ever(
    service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_down(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(worker, "run_episode", break_down)
    status = await finish(service, await submit(service, sampling={"trajectories": 2}))
    assert (status.state, status.rollouts[0].failed) == (State.SUCCEEDED, 12)


async def test_while_nobody_grades_no_group_begins_and_in_the_end_the_job_fails(
    settings: RolloutSettings, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = {"verifier_url": "http://127.0.0.1:9", "engine_in_flight_min": 2, "engine_in_flight_max": 2}
    with Serving(create_app(settings.model_copy(update=nobody))) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as service:
            job = await submit(service, sampling={"trajectories": 1})
            await until(service, job, lambda status: "verifier" in str(status.progress and status.progress.message))
            monkeypatch.setattr(steps, "PATIENCE_S", 0.01)
            status = await finish(service, job)
    assert status.state is State.FAILED
    assert "has not answered" in str(status.error) and "submit the job again" in str(status.error)
    assert len(engine.requests) - 1 == 2, "what was in play when it went away, and the probe"


async def test_the_last_groups_of_a_job_begin_together(settings: RolloutSettings, engine: FakeEngine) -> None:
    slow_down_after_the_probe(engine)
    narrow = settings.model_copy(update={"engine_in_flight_min": 2, "engine_in_flight_max": 2})
    with Serving(create_app(narrow)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as service:
            job = await submit(service, dataset={"problems": PROBLEMS[:4]}, sampling={"trajectories": 1})
            async with asyncio.timeout(60):
                while "drift_engine_queue 2.0" not in (await service.get("/metrics")).text:
                    await asyncio.sleep(0.05)
            assert engine.in_flight == 2
            await service.delete(f"/v1/jobs/{job}")
            await finish(service, job)


async def test_before_its_end_a_job_has_no_more_in_play_than_the_engines_take(
    settings: RolloutSettings, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "MOST_TICKETS", 4)
    monkeypatch.setattr(steps, "_TICKET_BATCH", 2)
    waited: list[int] = []
    join = Line.join

    def note(line: Line, where: str, messages: int, arrival: int) -> asyncio.Future[None]:
        waited.append(arrival)
        return join(line, where, messages, arrival)

    monkeypatch.setattr(Line, "join", note)
    engine.latency_s = 0.02
    narrow = settings.model_copy(update={"engine_in_flight_min": 2, "engine_in_flight_max": 2})
    with Serving(create_app(narrow)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as service:
            many = [{**PROBLEMS[0], "id": str(number)} for number in range(40)]
            spec = {"sampling": {"trajectories": 1}, "protocol": {"max_turns": 1}}
            await finish(service, await submit(service, dataset={"problems": many}, **spec))
    assert len(waited) <= 4


async def test_a_job_that_waits_behind_another_is_cancelled_at_once(
    service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    slow_down_after_the_probe(engine)
    first, second = await submit(service), await submit(service)
    await until(service, first, lambda status: status.phase == "rollout")
    await service.delete(f"/v1/jobs/{second}")
    assert (await finish(service, second)).state is State.CANCELLED
    assert (await until(service, first, lambda status: True)).state is State.RUNNING
    await service.delete(f"/v1/jobs/{first}")
    await finish(service, first)


async def test_a_younger_job_has_the_engines_while_the_older_trains_and_gives_way(
    service: httpx.AsyncClient, redis: Redis, engine: FakeEngine, tmp_path: Path
) -> None:
    trained = tmp_path / "stage-0"
    trained.mkdir()
    evaluate = [{"problems": PROBLEMS}]
    older = await submit(service, train={"epochs": 1}, evaluate=evaluate, sampling={"trajectories": 2})
    younger = await submit(service, dataset={"problems": PROBLEMS * 20}, sampling={"trajectories": 4})
    await until(service, older, lambda status: status.phase == "train")
    engine.latency_s = 1
    counts = keys.counts(younger, "rollout-0")
    async with asyncio.timeout(60):
        while not await redis.exists(counts):
            await asyncio.sleep(0.02)
    done = TrainingStatus(state=TrainingState.SUCCEEDED, stage=0, checkpoint=str(trained))
    await redis.set(keys.training(older, 0), done.model_dump_json())
    status = await finish(service, older)
    assert [each.multi_at[0] for each in status.evaluations] == [0, 1]
    assert int(await redis.hget(counts, "published") or 0) < 480
    engine.latency_s = 0
    status = await finish(service, younger)
    assert (status.state, status.rollouts[0].trajectories) == (State.SUCCEEDED, 480)
    assert status.rollouts[0].multi_at[0] == 0  # all of it by the base


async def test_a_paused_job_rests_until_it_is_resumed(service: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.latency_s = 1
    job = await submit(service, sampling={"trajectories": 40})
    await until(service, job, lambda status: status.phase == "rollout")
    await service.post(f"/v1/jobs/{job}/pause")
    await until(service, job, lambda status: status.state is State.PAUSED)
    engine.latency_s = 0
    assert (await service.post(f"/v1/jobs/{job}/resume")).status_code == 202
    status = await finish(service, job)
    assert (status.state, status.rollouts[0].trajectories) == (State.SUCCEEDED, 240)
    assert (await service.post(f"/v1/jobs/{job}/resume")).status_code == 409


async def test_a_job_that_is_resumed_behind_another_is_queued_and_can_be_paused_again(
    service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    slow_down_after_the_probe(engine)
    first, second = await submit(service), await submit(service)
    await until(service, first, lambda status: status.phase == "rollout")
    for _ in range(2):
        await service.post(f"/v1/jobs/{second}/pause")
        await until(service, second, lambda status: status.state is State.PAUSED, 30)
        assert (await service.post(f"/v1/jobs/{second}/resume")).status_code == 202
        await until(service, second, lambda status: status.state is State.QUEUED, 30)
    for job in (first, second):
        await service.delete(f"/v1/jobs/{job}")
        await finish(service, job)


async def test_a_training_that_redis_has_forgotten_is_handed_out_again(
    service: httpx.AsyncClient, redis: Redis, tmp_path: Path
) -> None:
    job = await submit(service, train={"steps": 3})
    name = keys.training(job, 0)

    async def until_handed_out() -> None:
        async with asyncio.timeout(60):
            while not await redis.exists(name):
                await asyncio.sleep(0.02)
        assert await redis.xlen(keys.TRAININGS) == 1

    await until_handed_out()
    await redis.delete(keys.TRAININGS, name)
    await until_handed_out()
    done = TrainingStatus(state=TrainingState.SUCCEEDED, stage=0, checkpoint=str(tmp_path))
    await redis.set(name, done.model_dump_json())
    status = await finish(service, job)
    assert (status.state, status.checkpoint) == (State.SUCCEEDED, str(tmp_path))


async def test_a_job_whose_training_fails_says_why(service: httpx.AsyncClient, redis: Redis) -> None:
    job = await submit(service, train={"steps": 3})
    await until(service, job, lambda status: status.phase == "train")
    failed = TrainingStatus(state=TrainingState.FAILED, stage=0, error="the loss is not finite")
    await redis.set(keys.training(job, 0), failed.model_dump_json())
    status = await finish(service, job)
    assert status.state is State.FAILED
    assert "the loss is not finite" in (status.error or "")


async def test_only_a_known_token_is_served(settings: RolloutSettings) -> None:
    locked = settings.model_copy(update={"api_keys": (SecretStr("key"),)})
    with Serving(create_app(locked)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            assert (await client.get("/health")).status_code == 200
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic key"}):
                reply = await client.get("/v1/jobs", headers=headers)
                assert (reply.status_code, reply.json()["status"]) == (401, 401)
            assert (await client.get("/v1/jobs", headers={"Authorization": "Bearer key"})).status_code == 200


async def test_a_body_beyond_the_limit_is_refused(settings: RolloutSettings) -> None:
    with Serving(create_app(settings.model_copy(update={"max_body_bytes": 2000}))) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            assert (await client.post("/v1/jobs", content=b"x" * 3000)).status_code == 413

            async def chunks():
                for _ in range(30):
                    yield b"x" * 100

            assert (await client.post("/v1/jobs", content=chunks())).status_code == 413


async def test_a_rollout_that_nobody_records_rests_at_the_high_water_mark_and_says_so(
    settings: RolloutSettings, redis: Redis
) -> None:
    with Serving(create_app(settings.model_copy(update={"high_water": 4}))) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            job = await submit(client, dataset={"problems": PROBLEMS * 100}, sampling={"trajectories": 2})
            for said in ("services.trainer.recorder", "catch up"):
                await until(client, job, lambda status: said in str(status.progress))  # noqa: B023
                await redis.set(keys.RECORDER_ALIVE, "one")


@pytest.mark.parametrize("rows", [1, 9])
async def test_a_dataset_that_changes_while_its_job_runs_fails_it_where_rows_are_gone_and_else_adds_none(
    service: httpx.AsyncClient, engine: FakeEngine, tmp_path: Path, rows: int
) -> None:
    def write(count: int) -> None:
        problems = [PROBLEMS[0] | {"id": str(n)} for n in range(count)]
        (tmp_path / "changing.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))

    write(4)
    slow_down_after_the_probe(engine)
    job = await submit(service, dataset=None, evaluate=[{"problems": PROBLEMS}, {"path": "changing.jsonl"}])
    await until(service, job, lambda status: status.phase == "evaluate" and engine.in_flight > 0)
    await service.post(f"/v1/jobs/{job}/pause")
    await until(service, job, lambda status: status.state is State.PAUSED and engine.in_flight == 0)
    write(rows)
    engine.script, engine.latency_s = lambda messages, weights: "A", 0.0
    await service.post(f"/v1/jobs/{job}/resume")
    status = await finish(service, job)
    if rows < 4:
        assert status.state is State.FAILED
        assert "changing.jsonl has fewer problems than the 4" in (status.error or "")
    else:
        assert [each.n for each in status.evaluations] == [len(PROBLEMS), 4]


@pytest.mark.parametrize("slow_reading", [2, 3], ids=["counted", "handed-out"])
async def test_a_job_is_cancelled_while_its_dataset_is_read_and_nobody_reads_on(
    service: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_reading: int
) -> None:
    (tmp_path / "long.jsonl").touch()
    readings, reached, ended, over = itertools.count(1), threading.Event(), threading.Event(), threading.Event()

    def read_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
        if next(readings) < slow_reading:  # the first is within the request
            yield "line 1", PROBLEMS[0]
            return
        reached.set()
        try:
            while not over.wait(0.01):
                yield "line 1", PROBLEMS[0]
        finally:
            ended.set()

    monkeypatch.setattr(files, "read_rows", read_rows)
    try:
        job = await submit(service, dataset={"path": "long.jsonl", "shuffle_seed": 1})
        assert await asyncio.to_thread(reached.wait, 60)
        assert (await service.delete(f"/v1/jobs/{job}")).status_code == 202
        assert (await until(service, job, lambda status: status.state.final, 30)).state is State.CANCELLED
        assert await asyncio.to_thread(ended.wait, 60)
    finally:
        over.set()
