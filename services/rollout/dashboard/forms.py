"""The new-job form: plain fields become a job's spec, checked as the API checks it, and the equivalent curl."""

import csv
import io
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError

from services.rollout.dashboard.rendering import TEMPLATES
from services.rollout.jobs import Jobs
from services.rollout.problems.files import ENDINGS, parse_line
from services.rollout.problems.row import parse_problem
from shared.errors import DriftError, SpecError
from shared.job import JobSpec
from shared.web import describe_faults

Check = Callable[[JobSpec], Awaitable[None]]
"""Raises `DriftError` for a spec that the API would refuse."""

_MOST_FILES = 200


def build_form_pages(jobs: Jobs, check: Check, data_root: Path) -> APIRouter:
    """Routes of the new-job form."""
    router = APIRouter(include_in_schema=False)

    @router.get("/new")
    async def ask(request: Request, like: str | None = None) -> Response:
        spec = await jobs.spec(like) if like else None
        context = {"files": _list_files(data_root), "spec": spec}
        return TEMPLATES.TemplateResponse(request, "new.html", context)

    async def with_spec(request: Request, go: Callable[[JobSpec], Awaitable[Response]]) -> Response:
        """Go on with the form's spec, or show what the API would say of it."""
        try:
            spec = read_form(await _fields(request))
            await check(spec)
        except DriftError as error:
            return TEMPLATES.TemplateResponse(request, "_preview.html", {"error": error})
        return await go(spec)

    @router.post("/new/preview")
    async def preview(request: Request) -> Response:
        async def show(spec: JobSpec) -> Response:
            curl = write_curl(str(request.base_url), spec.model_dump_json(exclude_unset=True, indent=2))
            return TEMPLATES.TemplateResponse(request, "_preview.html", {"curl": curl})

        return await with_spec(request, show)

    @router.post("/new")
    async def submit(request: Request) -> Response:
        async def create(spec: JobSpec) -> Response:
            status = await jobs.create(spec)
            return Response(headers={"HX-Redirect": f"/jobs/{status.id}"})

        return await with_spec(request, create)

    return router


def read_form(fields: Mapping[str, str]) -> JobSpec:
    """The spec that the fields name: `sampling.max_tokens` is a field of `sampling`; what is empty is left out.

    Raises `SpecError` with the API's own words.
    """
    spec: dict[str, object] = {}
    for path, value in fields.items():
        if value.strip():
            _put(spec, path.split("."), value.strip())
    if evaluate := spec.pop("evaluate", None):
        spec["evaluate"] = [evaluate]
    if pasted := spec.pop("pasted", None):
        spec["dataset"] = {"problems": list(_read_pasted(str(pasted)))}
    try:
        return JobSpec.model_validate(spec)
    except ValidationError as error:
        raise SpecError(describe_faults(error.errors())) from error


def write_curl(base_url: str, body: str) -> str:
    """The command that submits the same job."""
    quoted = body.replace("'", "'\\''")
    return (
        f"curl {base_url}v1/jobs -H 'Content-Type: application/json' "
        f"-H \"Authorization: Bearer $DRIFT_API_KEY\" -d '{quoted}'"
    )


def _put(spec: dict[str, object], path: list[str], value: str) -> None:
    *parents, name = path
    place = spec
    for parent in parents:
        inner = place.setdefault(parent, {})
        assert isinstance(inner, dict)
        place = inner
    place[name] = value


def _read_pasted(text: str) -> Iterator[dict[str, object]]:
    """Problems as JSON lines, or as CSV with a header."""
    if text.startswith("{"):
        rows = [parse_line(line, f"line {number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        rows = list(csv.DictReader(io.StringIO(text), skipinitialspace=True))
    for number, row in enumerate(rows, 1):
        yield parse_problem(row, f"pasted problem {number}", {}, str(number)).model_dump(exclude_none=True)


def _list_files(data_root: Path) -> list[str]:
    found = (path for path in sorted(data_root.rglob("*")) if path.name.endswith(ENDINGS))
    return [str(path.relative_to(data_root)) for path, _ in zip(found, range(_MOST_FILES), strict=False)]


async def _fields(request: Request) -> dict[str, str]:
    fields = parse_qs((await request.body()).decode(), max_num_fields=100)
    return {name: values[-1] for name, values in fields.items()}
