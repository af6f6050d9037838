"""The reader: trajectories as conversations, each beside its siblings, and one problem under every policy version."""

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import ValidationError

from services.rollout.dashboard.rendering import TEMPLATES
from services.rollout.jobs import Jobs
from services.rollout.records import Filter, Records, TrajectoryRecord
from shared.errors import SpecError
from shared.grading import Verdict
from shared.job import JobSpec
from shared.schema import Schema, describe_faults
from shared.status import JobStatus
from shared.trajectory import ENDINGS, part_name

PAGE = 50
_MOST_SHOWN = 64
"""Siblings of one group on a page."""

PartName = Annotated[str, Path(pattern=r"^(rollout-\d{1,6}|evaluate-\d{1,6}-\d{1,6})$")]


class Column(Schema):
    """One problem's trajectories under one policy version."""

    part: str
    policy: str
    trajectories: list[TrajectoryRecord]


def build_reader_pages(jobs: Jobs, records: Records) -> APIRouter:
    """Routes of the reader."""
    router = APIRouter(include_in_schema=False)

    @router.get("/jobs/{job}/trajectories")
    async def list_trajectories(request: Request, job: str) -> Response:
        status, spec = await jobs.get(job), await jobs.spec(job)
        given = {name: value for name, value in request.query_params.items() if value}
        after = given.pop("after", None)
        wanted = _read_filter(given)
        page = await records.page(job, spec.returns, after, PAGE, wanted)
        context = {
            "job": status,
            "page": page,
            "chosen": wanted,
            "parts": list_parts(status, len(spec.evaluate)),
            "endings": ENDINGS,
            "verdicts": [str(verdict) for verdict in Verdict],
            "next_url": f"?{urlencode(given | {'after': page.next})}" if page.next else None,
        }
        return TEMPLATES.TemplateResponse(request, "trajectories.html", context)

    @router.get("/jobs/{job}/groups/{part}/{group}")
    async def show_group(request: Request, job: str, part: PartName, group: Annotated[int, Path(ge=0)]) -> Response:
        status, spec = await jobs.get(job), await jobs.spec(job)
        columns = [await _read_column(records, spec, job, name, group) for name in sister_parts(status, part)]
        columns = [column for column in columns if column.trajectories]
        context = {
            "job": status,
            "part": part,
            "group": group,
            "columns": columns,
            "feedback": spec.protocol.feedback,
        }
        return TEMPLATES.TemplateResponse(request, "group.html", context)

    return router


def list_parts(status: JobStatus, evaluations: int) -> list[str]:
    """Every part that a job may have recorded by now."""
    stages = range(len(status.trainings) + 1)
    rollouts = [part_name("rollout", stage) for stage in stages]
    return rollouts + [part_name("evaluate", stage, dataset) for dataset in range(evaluations) for stage in stages]


def sister_parts(status: JobStatus, part: str) -> list[str]:
    """The parts of a job that hold the same problems as this one, in the order of their policies; it is among them."""
    stages = range(len(status.trainings) + 1)
    if part.startswith("rollout"):
        names = [part_name("rollout", stage) for stage in stages]
    else:
        dataset = int(part.rsplit("-", 1)[-1])
        names = [part_name("evaluate", stage, dataset) for stage in stages]
    return names if part in names else [*names, part]


async def _read_column(records: Records, spec: JobSpec, job: str, part: str, group: int) -> Column:
    page = await records.page(job, spec.returns, None, _MOST_SHOWN, Filter(part=part, group=group))
    policy = page.trajectories[0].policy if page.trajectories else ""
    return Column(part=part, policy=policy, trajectories=page.trajectories)


def _read_filter(given: Mapping[str, str]) -> Filter:
    try:
        return Filter.model_validate(given)
    except ValidationError as error:
        raise SpecError(describe_faults(error.errors()), remedy="Correct the filter.") from error
