"""The what-if panel: weights under other constants, over the trajectories that are there."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.rollout.archive import Archive
from services.rollout.chart import Chart, Series, draw_histogram
from services.rollout.dashboard.rendering import TEMPLATES
from services.rollout.jobs import Jobs
from services.rollout.weights import WeightReport, report_weights
from shared.returns import Beta, Gamma, Penalty, ReturnSpec
from shared.training import Objective


def build_what_if(jobs: Jobs, archive: Archive) -> APIRouter:
    """The panel's one route."""
    router = APIRouter(include_in_schema=False)

    @router.get("/jobs/{job}/what-if")
    async def show(
        request: Request,
        job: str,
        gamma: Gamma,
        beta: Beta,
        repeat_penalty: Annotated[Penalty, Query(alias="lambda")],
        format_penalty: Annotated[Penalty, Query(alias="phi")],
        objective: Objective = "drift",
    ) -> Response:
        spec = await jobs.spec(job)
        asked = ReturnSpec(gamma=gamma, beta=beta, repeat_penalty=repeat_penalty, format_penalty=format_penalty)
        parts = [part for part in await archive.read(job) if part.part.startswith("rollout-")]
        reports = [report_weights(job, part, spec.returns, asked, objective) for part in parts]
        context = {"job": job, "reports": reports, "charts": [chart.model_dump() for chart in draw_weights(reports)]}
        return TEMPLATES.TemplateResponse(request, "_what_if.html", context)

    return router


def draw_weights(reports: Sequence[WeightReport]) -> list[Chart]:
    """Histograms of weights and returns, and whose weight it is; of the newest stage that has any."""
    weighted = [report for report in reports if report.weighted]
    if not weighted:
        return []
    report = weighted[-1]
    turns = report.by_turn
    return [
        draw_histogram("weights", "Weights of trajectories", "weight", report.weights),
        draw_histogram("returns", "Returns of trajectories", "return", report.returns_histogram),
        Chart(
            key="by-turn",
            title="Share of the weight, by the turn that solved",
            kind="bars",
            x=[float(place) for place in range(len(turns))],
            x_label="solved at turn",
            ticks=["never" if each.turn is None else str(each.turn) for each in turns],
            percent=True,
            series=[Series(label="of the weight", values=[each.weight_share for each in turns])],
        ),
    ]
