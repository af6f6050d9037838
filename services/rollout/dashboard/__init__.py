"""The dashboard: server-rendered pages at the rollout service's `/`, live through server-sent events."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from redis.asyncio import Redis

from services.rollout.archive import Archive
from services.rollout.dashboard.forms import Check, build_form_pages
from services.rollout.dashboard.front import Front
from services.rollout.dashboard.pages import build_job_pages
from services.rollout.dashboard.reader import build_reader_pages
from services.rollout.dashboard.sessions import build_session_pages
from services.rollout.dashboard.what_if import build_what_if
from services.rollout.engines.policy import Policies
from services.rollout.history import History
from services.rollout.jobs import Jobs
from services.rollout.records import Records
from services.rollout.settings import RolloutSettings

OPEN_PATHS = ("/login", "/static/dashboard.css", "/static/icon.svg")
"""What a browser needs before it has signed in."""


def add_dashboard(
    app: FastAPI,
    settings: RolloutSettings,
    *,
    redis: Redis,
    jobs: Jobs,
    history: History,
    records: Records,
    archive: Archive,
    policies: Policies,
    check: Check,
) -> None:
    """Put the pages and what stands before them into the application."""
    app.include_router(build_job_pages(redis, jobs, history, policies, settings.runs_root))
    app.include_router(build_reader_pages(jobs, records))
    app.include_router(build_what_if(jobs, archive))
    app.include_router(build_session_pages(settings.api_keys))
    app.include_router(build_form_pages(jobs, check, settings.data_root))
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.add_middleware(Front)
