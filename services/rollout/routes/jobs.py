"""Jobs: submit, list, show, cancel, pause, resume, follow."""

from typing import Annotated

from fastapi import APIRouter, Body, Header, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from redis.asyncio import Redis

from services.rollout.events import check_event_id, follow
from services.rollout.intake import Intake
from services.rollout.jobs import Jobs
from services.rollout.routes import examples
from services.rollout.routes.examples import give
from shared.job import JobSpec
from shared.schema import Schema
from shared.status import JobStatus, State

JobPath = Annotated[str, Path(max_length=64, description="The job's id.", examples=[examples.JOB])]


class Accepted(Schema):
    """What the service has taken on."""

    id: str
    state: State


class JobQuery(Schema):
    """Which jobs, and where to go on."""

    state: Annotated[State | None, Field(examples=["running"])] = None
    """Absent: all."""
    before: Annotated[str | None, Field(max_length=64, examples=[examples.JOB])] = None
    """The last page's `next`."""
    limit: Annotated[int, Field(ge=1, le=1000, examples=[20])] = 100


class JobList(Schema):
    """The newest first."""

    jobs: list[JobStatus]
    next: str | None
    """Pass it as `before` for those that are older; absent where there are none."""


def build_job_routes(jobs: Jobs, intake: Intake, redis: Redis) -> APIRouter:
    """Routes of `/v1/jobs`."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    @router.post("", status_code=202, responses=give(examples.ACCEPTED, 202))
    async def submit(
        spec: Annotated[JobSpec, Body(openapi_examples=examples.SPECS)],
        idempotency_key: Annotated[
            str | None,
            Header(
                min_length=1,
                max_length=200,
                description="A repeated request with the same key and spec is the same job, for a week.",
                examples=["arc-2026-01-01"],
            ),
        ] = None,
    ) -> Accepted:
        """Queue a job. Its template, every row at hand and jobs that it refers to are checked first; hub datasets
        when the job begins."""
        status = await jobs.create(await intake.check(spec), idempotency_key)
        return Accepted(id=status.id, state=status.state)

    @router.get("", responses=give({"jobs": [examples.STATUS], "next": None}))
    async def list_jobs(page: Annotated[JobQuery, Query()]) -> JobList:
        """The newest jobs, page by page."""
        found = await jobs.recent(page.limit + 1, page.before, page.state)
        return JobList(jobs=found[: page.limit], next=found[page.limit - 1].id if len(found) > page.limit else None)

    @router.get("/{job}", responses=give(examples.STATUS))
    async def show(job: JobPath) -> JobStatus:
        """Where a job stands, and what it has measured."""
        return await jobs.get(job)

    @router.get("/{job}/spec", responses=give(examples.SPEC))
    async def show_spec(job: JobPath) -> JobSpec:
        """What the job was asked to do."""
        return await jobs.spec(job)

    @router.delete("/{job}", status_code=202, responses=give(examples.ACCEPTED | {"state": "running"}, 202))
    async def cancel(job: JobPath) -> Accepted:
        """Cancel; the job ends within seconds and leaves no request behind. What it has recorded stays."""
        status = await jobs.command(job, "cancel")
        return Accepted(id=status.id, state=status.state)

    @router.post("/{job}/pause", status_code=202, responses=give(examples.ACCEPTED | {"state": "running"}, 202))
    async def pause(job: JobPath) -> Accepted:
        """Stop rolling out until resumed; a training that runs goes on."""
        status = await jobs.command(job, "pause")
        return Accepted(id=status.id, state=status.state)

    @router.post("/{job}/resume", status_code=202, responses=give(examples.ACCEPTED | {"state": "paused"}, 202))
    async def resume(job: JobPath) -> Accepted:
        """Go on with a paused job."""
        status = await jobs.resume(job)
        return Accepted(id=status.id, state=status.state)

    @router.get(
        "/{job}/events",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"text/event-stream": {"example": "id: 1767268801000-0\nevent: status\ndata: {}\n\n"}}}
        },
    )
    async def list_events(
        job: JobPath,
        last_event_id: Annotated[str | None, Header(max_length=64, examples=["1767268801000-0"])] = None,
        after: Annotated[str | None, Query(max_length=64, examples=["1767268801000-0"])] = None,
    ) -> Response:
        """Server-sent events until the job ends: `status` (JobStatus), `training` (TrainingStatus), at last `end`.

        They begin after `Last-Event-ID`, or `after` for a client that cannot send the header at first. The newest
        two thousand are kept, until a week after the job's end; an id that is older begins with the oldest, one that
        is newer with what comes.
        """
        await jobs.get(job)
        return StreamingResponse(
            follow(redis, job, check_event_id(last_event_id or after)),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    return router
