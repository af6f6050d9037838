"""Submitting a job over HTTP and seeing it through."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from services.rollout.jobs import Part
from shared.status import JobStatus

PROBLEMS = [
    {"id": f"p{n}", "kind": "choice", "problem": f"Question {n}?", "answer": "B", "choices": ["x", "y"]}
    for n in range(6)
]


def make_part(job: str, group_size: int = 1) -> Part:
    """The rollout of `PROBLEMS` under the base policy."""
    return Part(
        job=job,
        phase="rollout",
        stage=0,
        dataset=0,
        policy="base",
        weights="/weights/base",
        model="base",
        group_size=group_size,
        groups=len(PROBLEMS),
    )


async def submit(service: httpx.AsyncClient, **spec: Any) -> str:
    """Submit a small job, changed by `spec`; its id."""
    reply = await service.post("/v1/jobs", json={"name": "test", "dataset": {"problems": PROBLEMS}} | spec)
    assert reply.status_code == 202, reply.text
    return reply.json()["id"]


async def until(
    service: httpx.AsyncClient, job: str, holds: Callable[[JobStatus], bool], deadline_s: float = 180
) -> JobStatus:
    """The job's status once the condition holds."""
    async with asyncio.timeout(deadline_s):
        while True:
            status = JobStatus.model_validate((await service.get(f"/v1/jobs/{job}")).raise_for_status().json())
            if holds(status):
                return status
            await asyncio.sleep(0.05)


async def finish(service: httpx.AsyncClient, job: str) -> JobStatus:
    """The job's status once it is over."""
    return await until(service, job, lambda status: status.state.final)
