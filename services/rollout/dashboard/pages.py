"""The pages of jobs: the list, one job with its live curves, signing in, and static files.

Pages are read-only; what they change they ask of the API's own routes. Nothing that a model or a user wrote is
ever put into a page unescaped, and the content policy lets no script run but the dashboard's own.
"""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.rollout.dashboard.charts import Chart, draw_job
from services.rollout.events import last_event
from services.rollout.history import History
from services.rollout.jobs import Jobs
from shared.job import JobStatus

FOLDER = FilePath(__file__).parent
_POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
_SESSION_S = 30 * 86400


def percent(share: float) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def clock(unix: float) -> str:
    """UTC, to the minute."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")


def left(job: JobStatus) -> str | None:
    """Time until the step at hand ends, at the pace that it has had so far."""
    progress = job.progress
    if not progress or not progress.done or not job.step_started or job.state != "running":
        return None
    spent = time.time() - job.step_started
    return duration(spent * (progress.total - progress.done) / progress.done)


TEMPLATES = Jinja2Templates(FOLDER / "templates")
TEMPLATES.env.filters |= {"percent": percent, "duration": duration, "clock": clock, "left": left}


def build_job_pages(jobs: Jobs, history: History, newest_event: Callable[[str], Awaitable[str]]) -> APIRouter:
    """Routes of the job pages."""
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @router.get("/")
    async def list_jobs(request: Request, part: Annotated[str | None, Query(pattern="^table$")] = None) -> Response:
        return TEMPLATES.TemplateResponse(
            request, "_jobs.html" if part else "jobs.html", {"jobs": await jobs.recent(100)}
        )

    @router.get("/jobs/{job}")
    async def show_job(request: Request, job: str) -> Response:
        event = await newest_event(job)  # before the status, so that no change falls between the two
        status, spec = await jobs.get(job), await jobs.spec(job)
        context = {"job": status, "spec": spec, "spec_json": spec.model_dump_json(indent=2), "last_event": event}
        return TEMPLATES.TemplateResponse(request, "job.html", context)

    @router.get("/jobs/{job}/status")
    async def show_status(request: Request, job: str) -> Response:
        return TEMPLATES.TemplateResponse(request, "_status.html", {"job": await jobs.get(job)})

    @router.get("/jobs/{job}/charts.json", response_class=JSONResponse)
    async def give_charts(job: str) -> list[Chart]:
        return draw_job(await jobs.spec(job), await jobs.get(job), await history.read(job))

    return router
