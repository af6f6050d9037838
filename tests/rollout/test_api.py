"""The API documents itself with examples that hold, and answers every error as problem details."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter

from services.rollout import jobs
from services.rollout.app import create_app
from services.rollout.engines.observation import EngineList
from services.rollout.metrics import JobMetrics
from services.rollout.records import TrajectoryPage
from services.rollout.report.facts import JobReport
from services.rollout.routes import examples
from services.rollout.routes.jobs import Accepted
from services.rollout.routes.presets import PresetList
from services.rollout.settings import RolloutSettings
from services.rollout.weights import WeightReport
from shared.job import JobSpec
from shared.status import JobStatus, State
from tests.fakes.engine import FakeEngine
from tests.rollout.client import PROBLEMS, finish, submit, until

NOBODY = "20260101-000000-abcdef"


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(RolloutSettings(_env_file=None))  # pyright: ignore[reportCallIssue]


@pytest.fixture(scope="module")
def openapi(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def operations(openapi: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/v1")
    ]


def test_every_route_says_what_it_does_with_an_example_of_its_answer(openapi: dict[str, Any]) -> None:
    for name, operation in operations(openapi):
        assert operation.get("description"), name
        good = {status: answer for status, answer in operation["responses"].items() if status.startswith("2")}
        assert good, name
        for answer in good.values():
            assert any("example" in content for content in answer["content"].values()), name


def test_every_body_and_every_field_of_a_path_or_query_has_an_example_or_a_choice(openapi: dict[str, Any]) -> None:
    for name, operation in operations(openapi):
        if body := operation.get("requestBody"):
            assert body["content"]["application/json"]["examples"], name
        for field in operation.get("parameters", []):
            if field["in"] == "path":
                assert field["schema"].get("examples") or field.get("examples"), f"{name}: {field['name']}"


def test_every_route_names_the_problems_that_it_may_answer(openapi: dict[str, Any]) -> None:
    for name, operation in operations(openapi):
        for status in ("401", "404", "422"):
            assert "application/problem+json" in operation["responses"][status]["content"], f"{name} {status}"
    assert "HTTPValidationError" not in openapi["components"]["schemas"]


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        (Accepted, examples.ACCEPTED),
        (JobStatus, examples.STATUS),
        (TrajectoryPage, examples.PAGE),
        (WeightReport, examples.WEIGHTS),
        (JobMetrics, examples.METRICS),
        (JobReport, examples.REPORT),
        (PresetList, examples.PRESETS),
        (EngineList, examples.ENGINES),
        *((JobSpec, one["value"]) for one in examples.SPECS.values()),
    ],
)
def test_examples_are_of_their_schemas(schema: type, example: object) -> None:
    TypeAdapter(schema).validate_python(example)


async def test_what_is_not_there_is_a_404_problem(service: httpx.AsyncClient) -> None:
    routes = ("", "/spec", "/events", "/trajectories", "/weights", "/metrics.json", "/report", "/export")
    named = [f"/v1/jobs/{job}{route}" for job in (NOBODY, "nonsense", "{x}", "..%2f..%2fetc") for route in routes]
    for path in [*named, "/v1/nowhere", f"/v1/jobs?before={NOBODY}"]:
        reply = await service.get(path)
        assert reply.status_code == 404, f"{path}: {reply.text}"
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json()["status"] == 404


async def test_wrong_parameters_are_named(service: httpx.AsyncClient) -> None:
    job = await submit(service)
    await finish(service, job)
    for route, named in [
        ("trajectories?after=x", "cursor"),
        ("trajectories?limit=0", "limit"),
        ("trajectories?limit=1001", "limit"),
        ("trajectories?part=x", "part"),
        ("trajectories?verdict=maybe", "verdict"),
        ("trajectories?min_turns=-1", "min_turns"),
        ("trajectories?colour=red", "colour"),
        ("weights?beta=0", "beta"),
        ("weights?gamma=2", "gamma"),
        ("weights?lambda=-1", "lambda"),
        ("weights?objective=best", "objective"),
        ("export?format=xlsx", "format"),
        ("report?format=pdf", "format"),
        ("events?after=x", "Last-Event-ID"),
        ("events?after=99999999999999999999-0", "Last-Event-ID"),
    ]:
        reply = await service.get(f"/v1/jobs/{job}/{route}")
        assert reply.status_code == 422, f"{route}: {reply.text}"
        assert reply.headers["content-type"] == "application/problem+json"
        assert named in reply.json()["detail"], route
        assert reply.json()["remedy"], route
    wrong_method = await service.put(f"/v1/jobs/{job}")
    assert (wrong_method.status_code, wrong_method.json()["status"]) == (405, 405)


async def read_pages(service: httpx.AsyncClient, **asked: str) -> list[str]:
    """The ids of the jobs on all pages of two."""
    seen: list[str] = []
    before: str | None = None
    while True:
        params = {"limit": 2, **asked} | ({"before": before} if before else {})
        page = (await service.get("/v1/jobs", params=params)).raise_for_status().json()
        assert len(page["jobs"]) == 2 or page["next"] is None
        seen += [job["id"] for job in page["jobs"]]
        before = page["next"]
        if before is None:
            return seen


async def test_jobs_are_listed_page_by_page(service: httpx.AsyncClient) -> None:
    made = [await submit(service, dataset={"problems": PROBLEMS[:1]}) for _ in range(5)]
    assert await read_pages(service) == made[::-1]


async def test_jobs_of_one_state_are_found_among_all_others_page_by_page(
    service: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_LOOK", 2)  # as if there were more than are read at once
    engine.latency_s = 3600
    made = [await submit(service) for _ in range(9)]
    await until(service, made[0], lambda status: status.state is State.RUNNING)
    cancelled = [made[place] for place in (1, 4, 5, 7)]
    for job in cancelled:
        await service.delete(f"/v1/jobs/{job}")
        await finish(service, job)
    queued = [job for job in made[1:] if job not in cancelled]
    for state, wanted in {"cancelled": cancelled, "queued": queued, "running": made[:1], "failed": []}.items():
        assert await read_pages(service, state=state) == wanted[::-1], state
    assert await read_pages(service, state="queued", before=made[5]) == [made[3], made[2]]
    for asked, status, named in [
        ({"state": "lazy"}, 422, "state"),
        ({"stat": "queued"}, 422, "stat"),
        ({"state": "queued", "before": NOBODY}, 404, NOBODY),
        ({"state": "failed", "before": NOBODY}, 404, NOBODY),
    ]:
        reply = await service.get("/v1/jobs", params=asked)
        assert (reply.status_code, named in reply.json()["detail"]) == (status, True), f"{asked}: {reply.text}"


async def test_presets_are_listed_with_where_they_come_from(service: httpx.AsyncClient) -> None:
    found = {one["name"]: one for one in (await service.get("/v1/presets")).raise_for_status().json()["presets"]}
    assert found["gpqa_diamond"]["gated"]
    assert found["gsm8k"]["hub"] == "openai/gsm8k"
    assert found["arc_easy"]["splits"] == ["train", "validation", "test"]
