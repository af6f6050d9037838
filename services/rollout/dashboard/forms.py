"""The new-job form: plain fields become a job's spec, checked as the API checks it, and the equivalent curl.

What the form has no field for is JSON in its last field, so that a form that is filled from another job keeps it all.
"""

import csv
import io
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError

from services.rollout.dashboard.rendering import TEMPLATES
from services.rollout.jobs import Jobs
from services.rollout.problems.files import ENDINGS, parse_line
from services.rollout.problems.presets import PRESETS
from services.rollout.problems.row import SURPLUS, parse_problem
from shared.errors import DriftError, SpecError
from shared.job import JobSpec
from shared.schema import describe_faults

Check = Callable[[JobSpec], Awaitable[JobSpec]]
"""Raises `DriftError` for a spec that the API would refuse."""

FIELDS = (
    "name",
    *(f"dataset.{name}" for name in ("path", "hub", "split", "preset", "limit", "shuffle_seed")),
    *(f"sampling.{name}" for name in ("trajectories", "temperature", "max_tokens")),
    *(f"protocol.{name}" for name in ("max_turns", "template", "feedback")),
    *(f"returns.{name}" for name in ("gamma", "beta", "repeat_penalty", "format_penalty")),
    *(f"train.{name}" for name in ("objective", "steps", "epochs", "batch_size", "learning_rate")),
    "refresh.stages",
    *(f"evaluate.{name}" for name in ("path", "preset", "limit", "shuffle_seed")),
)
"""Those that a spec's fields fill; beside them are `pasted` (problems) and `more` (JSON)."""
_MOST_FILES = 200


def build_form_pages(jobs: Jobs, check: Check, data_root: Path) -> APIRouter:
    """Routes of the new-job form."""
    router = APIRouter(include_in_schema=False)

    @router.get("/new")
    async def ask(request: Request, like: str | None = None) -> Response:
        """Empty, or filled from another job."""
        fields = write_form(await jobs.spec(like)) if like else {"name": "my first job"}
        context = {"files": _list_files(data_root), "presets": PRESETS, "fields": fields, "like": like}
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
    given = {path: value.strip() for path, value in fields.items() if value.strip()}
    spec = _read_more(given.pop("more", "{}"))
    pasted = given.pop("pasted", None)
    if "train.objective" not in given and (idle := [path for path in given if path.startswith("train.")]):
        raise SpecError(f"{idle[0]} is given, but no objective.", remedy="Choose one, or empty the training's fields.")
    evaluate: dict[str, object] = {}
    for path, value in given.items():
        section, _, name = path.rpartition(".")
        if section == "evaluate":
            evaluate[name] = value
        else:
            _put(spec, path.split("."), value)
    if evaluate:
        spec["evaluate"] = [evaluate]
    if pasted:
        _put(spec, ["dataset", "problems"], list(_read_pasted(pasted)))
    try:
        return JobSpec.model_validate(spec)
    except ValidationError as error:
        raise SpecError(describe_faults(error.errors())) from error


def write_form(spec: JobSpec) -> dict[str, str]:
    """The fields that `read_form` makes this spec of."""
    rest = spec.model_dump(mode="json", exclude_defaults=True)
    fields: dict[str, str] = {}
    if isinstance(dataset := rest.get("dataset"), dict) and (problems := dataset.pop("problems", None)):
        fields["pasted"] = "\n".join(json.dumps(problem, ensure_ascii=False) for problem in problems)
    if spec.train:
        rest["train"]["objective"] = spec.train.objective
    sections = dict(rest)
    if len(spec.evaluate) == 1 and all(f"evaluate.{name}" in FIELDS for name in rest["evaluate"][0]):
        (sections["evaluate"],) = rest["evaluate"]
    for path in FIELDS:
        section, _, name = path.rpartition(".")
        holder = sections.get(section) if section else rest
        if isinstance(holder, dict) and name in holder:
            fields[path] = str(holder.pop(name))
    more = {name: value for name, value in sections.items() if name in rest and value not in ({}, [])}
    return fields | ({"more": json.dumps(more, indent=2, ensure_ascii=False)} if more else {})


def write_curl(base_url: str, body: str) -> str:
    """The command that submits the same job."""
    quoted = body.replace("'", "'\\''")
    return (
        f"curl {base_url}v1/jobs -H 'Content-Type: application/json' "
        f"-H \"Authorization: Bearer $DRIFT_API_KEY\" -d '{quoted}'"
    )


def _read_more(text: str) -> dict[str, object]:
    try:
        more = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"Other fields: {error}.", remedy="Write one JSON object.") from None
    if not isinstance(more, dict):
        raise SpecError("Other fields: this is no object.", remedy='Write one JSON object, e.g. {"refresh": {}}.')
    return more


def _put(spec: dict[str, object], path: list[str], value: object) -> None:
    *parents, name = path
    place = spec
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise SpecError(f"Other fields: {parent} is no object.", remedy="Write it as in the API.")
        place = inner
    place[name] = value


def _read_pasted(text: str) -> Iterator[dict[str, object]]:
    """Problems as JSON lines, or as CSV with a header."""
    if text.startswith("{"):
        rows = [parse_line(line, f"line {number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        lines = io.StringIO(text, newline="")
        try:
            rows = list(csv.DictReader(lines, restkey=SURPLUS, skipinitialspace=True))
        except csv.Error as error:
            raise SpecError(f"Pasted problems: {error}.", remedy="Paste CSV with a header, or JSON lines.") from None
    for number, row in enumerate(rows, 1):
        yield parse_problem(row, f"pasted problem {number}", {}, str(number)).model_dump(exclude_none=True)


def _list_files(data_root: Path) -> list[str]:
    found = (path for path in sorted(data_root.rglob("*")) if path.name.endswith(ENDINGS))
    return [str(path.relative_to(data_root)) for path, _ in zip(found, range(_MOST_FILES), strict=False)]


async def _fields(request: Request) -> dict[str, str]:
    try:
        fields = parse_qs((await request.body()).decode(), max_num_fields=100)
    except ValueError as error:
        raise SpecError(f"This is not the form's: {error}.", remedy="Send it from the form's own page.") from None
    return {name: values[-1] for name, values in fields.items()}
