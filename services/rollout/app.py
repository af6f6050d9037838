"""The rollout service over HTTP: jobs in, status and trajectories out. Conducting and rolling out run beside it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from httpx_aiohttp import AiohttpTransport
from prometheus_client import CollectorRegistry
from redis.exceptions import RedisError

from services.rollout.archive import Archive
from services.rollout.conductor import Conductor
from services.rollout.dashboard import OPEN_PATHS, add_dashboard
from services.rollout.engines.policy import Policies
from services.rollout.engines.pool import KEEP_ALIVE_S, Engines
from services.rollout.grader import Grader
from services.rollout.history import History
from services.rollout.intake import Intake
from services.rollout.jobs import Jobs
from services.rollout.records import Records
from services.rollout.routes.engines import build_engine_routes
from services.rollout.routes.jobs import build_job_routes
from services.rollout.routes.presets import build_preset_routes
from services.rollout.routes.recorded import build_recorded_routes
from services.rollout.settings import RolloutSettings
from services.rollout.steps import Steps
from services.rollout.turns import Turns
from services.rollout.worker import Worker
from shared.settings import load_settings
from shared.stream import connect
from shared.telemetry import configure_logging, get_logger
from shared.tracing import configure_tracing
from shared.verifier_client import VerifierClient
from shared.web import PROBES, PROBLEM_RESPONSES, equip, problem

STOP_TRIES = 8
log = get_logger(__name__)


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
    verifier = VerifierClient(settings.verifier_url, key, transport=transport)
    policies = Policies(engines)
    grader = Grader(verifier.verify)
    worker = Worker(redis, jobs, engines, grader, settings.high_water)
    intake = Intake(jobs, settings.data_root, settings.templates_root)
    turns = Turns()
    archive = Archive(redis, settings.runs_root)
    steps = Steps(redis, jobs, engines, grader, policies, intake, archive, settings, turns)
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
        app,
        settings,
        redis=redis,
        jobs=jobs,
        history=history,
        records=records,
        archive=archive,
        policies=policies,
        check=intake.check,
    )

    @app.exception_handler(RedisError)
    async def _(_request: Request, error: RedisError) -> Response:
        log.warning("redis_unreachable", error=str(error))
        return problem(503, "Redis does not answer.", remedy="Try again; see DRIFT_REDIS_URL.")

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

    for routes in (
        build_job_routes(jobs, intake, redis),
        build_recorded_routes(jobs, records, archive),
        build_preset_routes(settings.data_root),
        build_engine_routes(policies),
    ):
        app.include_router(routes, responses=PROBLEM_RESPONSES)
    return app
