"""Events tell a job's whole story once, also to a client that was away."""

import asyncio

import httpx
from redis.asyncio import Redis

from services.rollout.steps import EVENTS_S
from shared import keys
from shared.status import JobStatus, State
from tests.rollout.client import finish, submit

END = "event: end\ndata: {}\n\n"


async def read_all(service: httpx.AsyncClient, job: str, last: str | None = None) -> str:
    """The stream of events as it was sent, once it has ended by itself."""
    headers = {"Last-Event-ID": last} if last else {}
    reply = await service.get(f"/v1/jobs/{job}/events", headers=headers, timeout=60)
    assert reply.headers["content-type"].startswith("text/event-stream")
    return reply.text


async def listen(service: httpx.AsyncClient, job: str, last: str | None = None) -> list[tuple[str, JobStatus]]:
    """(id, status) of each status event, until the stream ends by itself."""
    heard: list[tuple[str, JobStatus]] = []
    for block in (await read_all(service, job, last)).strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if fields.get("event") == "status":
            heard.append((fields["id"], JobStatus.model_validate_json(fields["data"])))
    return heard


async def test_events_run_from_the_start_to_the_end_of_the_job(service: httpx.AsyncClient) -> None:
    job = await submit(service, sampling={"trajectories": 2})
    heard = await listen(service, job)
    assert heard[0][1].state is State.RUNNING
    assert heard[-1][1] == await finish(service, job)
    assert [status.steps_done for _, status in heard] == sorted(status.steps_done for _, status in heard)


async def test_a_client_that_comes_back_misses_and_repeats_nothing(service: httpx.AsyncClient) -> None:
    job = await submit(service, sampling={"trajectories": 2})
    await finish(service, job)
    whole = await listen(service, job)
    for place, (last, _) in enumerate(whole[:-1]):
        assert await listen(service, job, last) == whole[place + 1 :]


async def test_a_wrong_event_id_is_refused(service: httpx.AsyncClient) -> None:
    job = await submit(service, sampling={"trajectories": 1})
    reply = await service.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "yesterday"})
    assert reply.status_code == 422
    assert "Last-Event-ID" in reply.json()["detail"]


async def test_a_client_that_has_heard_everything_is_told_that_the_job_is_over(service: httpx.AsyncClient) -> None:
    job = await submit(service, sampling={"trajectories": 1})
    await finish(service, job)
    last = (await listen(service, job))[-1][0]
    for id in (last, "18446744073709551615-18446744073709551615"):
        assert await read_all(service, job, id) == END


async def test_the_events_of_a_job_that_is_over_expire_and_listeners_are_still_told_the_end(
    service: httpx.AsyncClient, redis: Redis
) -> None:
    job = await submit(service, sampling={"trajectories": 1})
    await finish(service, job)
    last = (await listen(service, job))[-1][0]
    async with asyncio.timeout(60):
        while not 0 < await redis.ttl(keys.events(job)) <= EVENTS_S:
            await asyncio.sleep(0.02)
    await redis.delete(keys.events(job))  # as the expiry will
    for id in (None, last):
        assert await read_all(service, job, id) == END
