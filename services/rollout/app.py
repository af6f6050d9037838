"""The rollout service over HTTP: jobs in, status and trajectories out. Conducting and rolling out run beside it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from fastapi import FastAPI, Header, Path, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from httpx_aiohttp import AiohttpTransport
from prometheus_client import CollectorRegistry
from redis.exceptions import RedisError

from services.rollout.archive import Archive
from services.rollout.conductor import Conductor
from services.rollout.dashboard import OPEN_PATHS, add_dashboard
from services.rollout.engines.policy import Policies
from services.rollout.engines.pool import KEEP_ALIVE_S, Engines
from services.rollout.events import check_event_id, follow
from services.rollout.grader import Grader
from services.rollout.history import History
from services.rollout.intake import Intake
from services.rollout.jobs import Jobs
from services.rollout.records import Filter, Records, TrajectoryPage
from services.rollout.settings import RolloutSettings
from services.rollout.steps import Steps
from services.rollout.turns import Turns
from services.rollout.worker import Worker
from shared.job import JobSpec, JobStatus
from shared.schema import Schema
from shared.settings import load_settings
from shared.stream import connect
from shared.telemetry import configure_logging, get_logger
from shared.tracing import configure_tracing
from shared.verifier_client import VerifierClient
from shared.web import PROBES, equip, problem

VERIFIER_ATTEMPTS = 60
"""Some five minutes with their pauses: a verifier that restarts is waited for."""

STOP_TRIES = 8
log = get_logger(__name__)

JobId = Annotated[str, Path(pattern=r"^[0-9]{8}-[0-9]{6}-[0-9a-f]{6}$")]


class Accepted(Schema):
    """A job that has been queued."""

    id: str
    state: str


class JobList(Schema):
    """The newest first."""

    jobs: list[JobStatus]


def _end_with(task: asyncio.Task[None]) -> None:
    """A part of the service that breaks takes the process with it: a supervisor can start a process anew."""
    if not task.cancelled() and (error := task.exception()):
        log.critical("service_broken", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


async def stop(tasks: Collection[asyncio.Task[None]]) -> None:
    """End tasks for sure: a single cancellation can be lost in a client library that is just reconnecting."""
    for _ in range(STOP_TRIES):
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=1.0)
        if not tasks:
            return


def create_app(settings: RolloutSettings | None = None) -> FastAPI:
    """The application; settings come from the environment where none are given."""
    settings = settings or load_settings(RolloutSettings)
    configure_logging("rollout", settings.log_level)
    configure_tracing("rollout")
    registry = CollectorRegistry()
    redis = connect(settings.redis_url)
    jobs = Jobs(redis)
    engines = Engines(settings, registry)
    key = settings.api_keys[0].get_secret_value() if settings.api_keys else None
    transport = AiohttpTransport(limits=httpx.Limits(keepalive_expiry=KEEP_ALIVE_S))
    verifier = VerifierClient(settings.verifier_url, key, attempts=VERIFIER_ATTEMPTS, transport=transport)
    policies = Policies(engines)
    worker = Worker(redis, jobs, engines, Grader(verifier.verify), settings.high_water)
    intake = Intake(jobs, settings.data_root)
    turns = Turns()
    archive = Archive(redis, settings.runs_root)
    steps = Steps(redis, jobs, engines, policies, intake, archive, settings, turns)
    conductor = Conductor(redis, jobs, steps, policies, turns, worker.name)
    records = Records(archive)
    history = History(redis, jobs, policies, lambda: sum(engine.in_flight for engine in engines.members))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(run()) for run in (policies.watch, worker.run, conductor.run, history.keep)]
        for task in tasks:
            task.add_done_callback(_end_with)
        try:
            yield
        finally:
            await stop(tasks)
            await engines.close()
            await verifier.aclose()
            await redis.aclose()

    app = FastAPI(title="DRIFT rollout service", version="1", lifespan=lifespan)
    open_paths = (*PROBES, *OPEN_PATHS)
    equip(
        app,
        keys=settings.api_keys,
        max_body=settings.max_body_bytes,
        rate=settings.rollout_rate,
        registry=registry,
        open_paths=open_paths,
        audit=True,
    )

    add_dashboard(
        app, settings, redis=redis, jobs=jobs, history=history, records=records, archive=archive, check=intake.check
    )

    @app.get("/ready", tags=["probes"], response_model=None)
    async def ready() -> Response:
        """Redis and the verifier answer; engines may come and go."""
        try:
            await asyncio.wait_for(redis.ping(), 2.0)
        except (RedisError, TimeoutError):
            return problem(503, "Redis does not answer.", remedy="See DRIFT_REDIS_URL.")
        if not await verifier.ready():
            return problem(503, "The verifier does not answer.", remedy="See DRIFT_VERIFIER_URL.")
        return JSONResponse({"status": "ready"})

    @app.post("/v1/jobs", status_code=202, tags=["jobs"])
    async def submit(
        spec: JobSpec, idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None
    ) -> Accepted:
        """Queue a job. Its template and every row at hand are checked first; hub datasets when the job begins."""
        await intake.check(spec)
        status = await jobs.create(spec, idempotency_key)
        return Accepted(id=status.id, state=status.state)

    @app.get("/v1/jobs", tags=["jobs"])
    async def list_jobs(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> JobList:
        """The newest jobs."""
        return JobList(jobs=await jobs.recent(limit))

    @app.get("/v1/jobs/{job}", tags=["jobs"])
    async def show(job: JobId) -> JobStatus:
        """Where a job stands, and what it has measured."""
        return await jobs.get(job)

    @app.get("/v1/jobs/{job}/spec", tags=["jobs"])
    async def show_spec(job: JobId) -> JobSpec:
        """What the job was asked to do."""
        return await jobs.spec(job)

    @app.delete("/v1/jobs/{job}", status_code=202, tags=["jobs"])
    async def cancel(job: JobId) -> Accepted:
        """Cancel; the job ends within seconds and leaves no request behind. What it has recorded stays."""
        status = await jobs.command(job, "cancel")
        return Accepted(id=status.id, state=status.state)

    @app.post("/v1/jobs/{job}/pause", status_code=202, tags=["jobs"])
    async def pause(job: JobId) -> Accepted:
        """Stop rolling out until resumed; a training that runs goes on."""
        status = await jobs.command(job, "pause")
        return Accepted(id=status.id, state=status.state)

    @app.post("/v1/jobs/{job}/resume", status_code=202, tags=["jobs"])
    async def resume(job: JobId) -> Accepted:
        """Go on with a paused job."""
        status = await jobs.resume(job)
        return Accepted(id=status.id, state=status.state)

    @app.get("/v1/jobs/{job}/events", tags=["jobs"], response_class=StreamingResponse)
    async def list_events(
        job: JobId,
        last_event_id: Annotated[str | None, Header(max_length=64)] = None,
        after: Annotated[str | None, Query(max_length=64)] = None,
    ) -> StreamingResponse:
        """Server-sent events until the job ends: `status` (JobStatus), `training` (TrainingStatus), at last `end`.

        They begin after `Last-Event-ID`, or `after` for a client that cannot send the header at first.
        """
        await jobs.get(job)
        return StreamingResponse(
            follow(redis, job, check_event_id(last_event_id or after)),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    @app.get("/v1/jobs/{job}/trajectories", tags=["jobs"])
    async def list_trajectories(
        job: JobId,
        after: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        part: Annotated[str | None, Query(pattern=r"^(rollout-\d{1,6}|evaluate-\d{1,6}-\d{1,6})$")] = None,
    ) -> TrajectoryPage:
        """Trajectories by part, group and k, with return and weight; `after` is the last page's `next`."""
        spec = await jobs.spec(job)
        return await records.page(job, spec.returns, after, limit, Filter(part=part))

    return app
