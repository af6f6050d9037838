"""What jobs have recorded: trajectories, weights, live figures, reports, exports."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import Field

from services.rollout.archive import Archive
from services.rollout.export import ENDINGS, MEDIA_TYPES, Format, export
from services.rollout.jobs import Jobs
from services.rollout.metrics import JobMetrics, measure_job
from services.rollout.records import Filter, Records, TrajectoryPage
from services.rollout.report.bundle import bundle_report
from services.rollout.report.facts import JobReport, gather_facts
from services.rollout.report.markdown import write_markdown
from services.rollout.routes import examples
from services.rollout.routes.examples import give
from services.rollout.routes.jobs import JobPath
from services.rollout.weights import WeightReport, report_weights
from shared.errors import NotFound
from shared.outcomes import PartOutcomes
from shared.returns import Beta, Gamma, Penalty, ReturnSpec
from shared.schema import Schema
from shared.training import Objective

PartQuery = Annotated[str, Query(pattern=r"^(rollout-\d{1,6}|evaluate-\d{1,6}-\d{1,6})$", examples=["rollout-0"])]


class Page(Filter):
    """Which trajectories, and where to go on."""

    after: Annotated[str | None, Field(max_length=64, examples=["rollout-0:17:3"])] = None
    """The last page's `next`."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class WhatIf(Schema):
    """Constants to weigh with; those left out are the job's own."""

    gamma: Annotated[Gamma | None, Field(examples=[0.9])] = None
    beta: Annotated[Beta | None, Field(examples=[0.2])] = None
    repeat_penalty: Annotated[Penalty | None, Field(alias="lambda", examples=[0.5])] = None
    format_penalty: Annotated[Penalty | None, Field(alias="phi", examples=[0.1])] = None
    objective: Objective = "drift"
    all_wrong: Literal["keep", "drop"] = "keep"
    """Groups without a success."""
    epsilon: Annotated[float, Field(ge=0, lt=1)] = 1e-3
    """For the count of skipped trajectories."""
    stage: Annotated[int | None, Field(ge=0, le=100)] = None
    """Which stage's rollouts; absent takes the last that are recorded."""
    examples: Annotated[int, Field(ge=0, le=100)] = 10
    """Most trajectories shown that gain or lose."""

    def change(self, own: ReturnSpec) -> ReturnSpec:
        """The constants asked for."""
        asked = self.model_dump(include=set(ReturnSpec.model_fields), exclude_none=True)
        return own.model_copy(update=asked)


def build_recorded_routes(jobs: Jobs, records: Records, archive: Archive) -> APIRouter:
    """Routes below `/v1/jobs/{job}`."""
    router = APIRouter(prefix="/v1/jobs/{job}", tags=["records"])

    @router.get("/trajectories", responses=give(examples.PAGE))
    async def list_trajectories(job: JobPath, page: Annotated[Page, Query()]) -> TrajectoryPage:
        """Trajectories by part, group and k, with return and weight.

        A page may be short and still have a `next`: it ends where its token ids are too many for one answer, and a
        search for a text, whose page may even be empty, looks through a limited number of shards at a time.
        """
        spec = await jobs.spec(job)
        wanted = Filter.model_validate(page.model_dump(exclude={"after", "limit"}))
        return await records.page(job, spec.returns, page.after, page.limit, wanted)

    @router.get("/outcomes", responses=give(examples.OUTCOMES))
    async def show_outcomes(job: JobPath, part: PartQuery) -> PartOutcomes:
        """What became of each trajectory of a part, as columns: for measures and weights of one's own."""
        await jobs.spec(job)
        found = await archive.read(job, part)
        if not found:
            raise NotFound(f"Job {job} has recorded nothing of {part} yet.", remedy="Ask again when that has begun.")
        return await asyncio.to_thread(found[0].outcomes.to_columns, job, part, found[0].policy)

    @router.get("/weights", responses=give(examples.WEIGHTS))
    async def show_weights(job: JobPath, asked: Annotated[WhatIf, Query()]) -> WeightReport:
        """What other constants or another objective would make of the recorded rollouts, without new ones.

        For a job with `rollouts_of` these are the other job's rollouts.
        """
        spec = await jobs.spec(job)
        source = spec.rollouts_of or job
        part = None if asked.stage is None else f"rollout-{asked.stage}"
        found = [one for one in await archive.read(source, part) if one.part.startswith("rollout-")]
        if not found:
            raise NotFound(f"Job {source} has recorded no rollouts yet.", remedy="Ask again when it rolls out.")
        latest = max(found, key=lambda one: int(one.part.removeprefix("rollout-")))
        return report_weights(
            source,
            latest,
            spec.returns,
            asked.change(spec.returns),
            asked.objective,
            drop_all_wrong=asked.all_wrong == "drop",
            epsilon=asked.epsilon,
            examples=asked.examples,
        )

    @router.get("/metrics.json", responses=give(examples.METRICS))
    async def show_metrics(job: JobPath) -> JobMetrics:
        """The live figures of every rollout, evaluation and training."""
        return await measure_job(jobs, await jobs.spec(job), await jobs.get(job))

    @router.get(
        "/report",
        response_model=JobReport,
        responses=give(examples.REPORT, 200, **{"text/markdown": {"example": "# arc: succeeded\n"}}),
    )
    async def show_report(
        job: JobPath,
        request: Request,
        format: Annotated[Literal["json", "md", "zip"] | None, Query(examples=["md"])] = None,
        accept: Annotated[str, Header(max_length=1000)] = "",
    ) -> Response:
        """The job's facts: measures with intervals over problems, group composition, effective sample sizes, counts,
        times. As Markdown for people with `?format=md` or `Accept: text/markdown`; `?format=zip` has its figures,
        too: `report.md`, `report.json` and `figures/*.svg`."""
        report = await gather_facts(jobs, archive, job)
        url = str(request.base_url).rstrip("/")
        if format == "zip":
            headers = {"Content-Disposition": f'attachment; filename="{job}-report.zip"'}
            return Response(await asyncio.to_thread(bundle_report, report, url), 200, headers, "application/zip")
        if format == "md" or (format is None and "text/markdown" in accept):
            return PlainTextResponse(write_markdown(report, [], url), media_type="text/markdown")
        return JSONResponse(report.model_dump(mode="json", by_alias=True))

    @router.get(
        "/export",
        response_class=StreamingResponse,
        responses={200: {"content": {MEDIA_TYPES["jsonl"]: {"example": '{"group": 0, "k": 0, "weight": 1.4}\n'}}}},
    )
    async def give_export(
        job: JobPath,
        format: Annotated[Format, Query(examples=["parquet"])] = "jsonl",
        part: PartQuery | None = None,
    ) -> Response:
        """All trajectories with return and weight: JSON lines, one Parquet file, or `hf`, a tar of a folder that
        `datasets.load_dataset` reads. Streamed."""
        spec = await jobs.spec(job)
        name = f"{job}-{part}" if part else job
        return StreamingResponse(
            export(archive, job, spec.returns, format, part),
            media_type=MEDIA_TYPES[format],
            headers={"Content-Disposition": f'attachment; filename="{name}.{ENDINGS[format]}"'},
        )

    return router
