"""The pages of jobs: the list, one job with its live curves, and several beside each other.

Pages only show; what they change they ask of the API's own routes. Everything that a model or a user wrote is
escaped by the templates.
"""

import asyncio
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse, Response
from redis.asyncio import Redis

from services.rollout.chart import Chart, draw_evaluations
from services.rollout.dashboard.charts import draw_job
from services.rollout.dashboard.headline import choose_tiles, place_evaluations
from services.rollout.dashboard.rendering import TEMPLATES
from services.rollout.dashboard.training_log import draw_steps, read_steps
from services.rollout.engines.policy import Policies
from services.rollout.events import newest_event
from services.rollout.history import History
from services.rollout.jobs import Jobs
from services.rollout.report.markdown import escape, percent, write_table
from shared.measures import Evaluation
from shared.schema import Schema
from shared.status import JobStatus

MOST_COMPARED = 12
JobIds = Annotated[list[str], Query(max_length=MOST_COMPARED)]


class Line(Schema):
    """One policy of one job on one dataset."""

    job: str
    name: str
    evaluation: Evaluation

    @property
    def label(self) -> str:
        return f"{self.name} {self.evaluation.policy}"


def build_job_pages(redis: Redis, jobs: Jobs, history: History, policies: Policies, runs_root: Path) -> APIRouter:
    """Routes of the job pages."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def list_jobs(request: Request, part: Annotated[str | None, Query(pattern="^table$")] = None) -> Response:
        page = "_jobs.html" if part else "jobs.html"
        return TEMPLATES.TemplateResponse(request, page, {"jobs": await jobs.recent(100)})

    @router.get("/jobs/{job}")
    async def show_job(request: Request, job: str) -> Response:
        newest = await newest_event(redis, job)  # before the status: no change may fall between the two
        status, spec = await jobs.get(job), await jobs.spec(job)
        context = {"spec": spec, "spec_json": spec.model_dump_json(indent=2), "newest_event": newest}
        return TEMPLATES.TemplateResponse(request, "job.html", _describe(status) | context)

    @router.get("/jobs/{job}/status")
    async def show_status(request: Request, job: str) -> Response:
        return TEMPLATES.TemplateResponse(request, "_status.html", _describe(await jobs.get(job)))

    @router.get("/engines")
    async def show_engines(request: Request) -> Response:
        return TEMPLATES.TemplateResponse(request, "_engines.html", {"engines": policies.describe_engines()})

    @router.get("/jobs/{job}/charts.json")
    async def give_charts(job: str) -> list[Chart]:
        status = await jobs.get(job)
        trained = draw_steps(await asyncio.to_thread(read_steps, runs_root, status))
        return [*draw_job(await jobs.spec(job), status, await history.read(job)), *trained]

    @router.get("/compare")
    async def compare(request: Request, job: JobIds = []) -> Response:  # noqa: B006
        lines = await _read_lines(jobs, job)
        context = {"jobs": await jobs.recent(100), "chosen": job, "lines": lines}
        return TEMPLATES.TemplateResponse(request, "compare.html", context)

    @router.get("/compare/charts.json")
    async def compare_charts(job: JobIds) -> list[Chart]:
        return draw_evaluations([(line.label, line.evaluation) for line in await _read_lines(jobs, job)])

    @router.get("/compare/table")
    async def compare_table(job: JobIds, format: Literal["csv", "md"] = "csv") -> PlainTextResponse:
        rows = _tabulate(await _read_lines(jobs, job))
        write = _write_csv if format == "csv" else _write_markdown
        return PlainTextResponse(write(rows), headers={"Content-Disposition": f"attachment; filename=compare.{format}"})

    return router


def _describe(status: JobStatus) -> dict[str, object]:
    return {"job": status, "tiles": choose_tiles(status), "evaluations": place_evaluations(status)}


async def _read_lines(jobs: Jobs, chosen: Sequence[str]) -> list[Line]:
    statuses = [await jobs.get(job) for job in chosen]
    return [
        Line(job=status.id, name=status.name, evaluation=evaluation)
        for status in statuses
        for evaluation in status.evaluations
    ]


def _tabulate(lines: Sequence[Line]) -> list[list[str]]:
    turns = max((len(line.evaluation.multi_at) for line in lines), default=0)
    header = ["job", "policy", "dataset", "n", *(f"multi@{k}" for k in range(1, turns + 1)), "correction", "U/A"]
    return [
        header,
        *(
            [
                line.name,
                line.evaluation.policy,
                line.evaluation.dataset,
                str(line.evaluation.n),
                *(percent(share) for share in line.evaluation.multi_at),
                *[""] * (turns - len(line.evaluation.multi_at)),
                percent(line.evaluation.correction_rate),
                f"{line.evaluation.unique_answers:.3f}",
            ]
            for line in lines
        ),
    ]


def _write_csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _write_markdown(rows: Sequence[Sequence[str]]) -> str:
    header, *body = rows
    return "\n".join(write_table(header, [[escape(cell) for cell in row] for row in body]))
