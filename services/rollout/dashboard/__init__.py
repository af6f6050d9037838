"""The dashboard: server-rendered pages at the rollout service's `/`, live through server-sent events."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic import SecretStr
from redis.asyncio import Redis

from services.rollout.dashboard.front import Front
from services.rollout.dashboard.pages import build_job_pages
from services.rollout.dashboard.sessions import build_session_pages
from services.rollout.history import History
from services.rollout.jobs import Jobs

OPEN_PATHS = ("/login", "/static/dashboard.css", "/static/icon.svg")
"""What a browser needs before it has signed in."""


def add_dashboard(app: FastAPI, keys: tuple[SecretStr, ...], redis: Redis, jobs: Jobs, history: History) -> None:
    """Put the pages and what stands before them into the application."""
    app.include_router(build_job_pages(redis, jobs, history))
    app.include_router(build_session_pages(keys))
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.add_middleware(Front)
