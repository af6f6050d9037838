"""A report: its figures show its facts and nothing else, and every number leads to what was counted."""

import io
import itertools
import json
import re
import zipfile
from collections.abc import Sequence
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest

from services.rollout.chart import Chart, Series
from services.rollout.outcomes import Outcomes
from services.rollout.report.facts import compose_at, sweep_constants
from services.rollout.report.svg import draw_svg
from shared.returns import ReturnSpec, weigh
from tests.fakes.engine import FakeEngine
from tests.rollout.client import PROBLEMS, finish, submit

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script> | [x](y) `z`"


async def ask_bundle(service: httpx.AsyncClient, job: str) -> dict[str, str]:
    reply = await service.get(f"/v1/jobs/{job}/report?format=zip")
    assert reply.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


async def test_the_bundle_is_whole_and_every_source_is_a_page_that_shows_it(
    service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.script = lambda messages, weights: "B" if len(engine.requests) % 3 == 0 else "A"
    job = await submit(service, sampling={"trajectories": 4}, evaluate=[{"problems": PROBLEMS}, {"problems": PROBLEMS}])
    await finish(service, job)
    files = await ask_bundle(service, job)
    page, facts = files.pop("report.md"), json.loads(files.pop("report.json"))
    shown = set(re.findall(r"!\[[^]]*\]\(([^)]*)\)", page))
    assert shown == set(files) and len(shown) == 9
    for name in files:
        ElementTree.fromstring(files[name])

    links = dict(re.findall(r"^\[([\w-]+)\]: (\S+)$", page, re.MULTILINE))
    assert set(links) == {"evaluate-0-0", "evaluate-0-1", "rollout-0"}
    assert set(re.findall(r"\]\[([\w-]+)\]", page)) == set(links)
    for part, link in links.items():
        reply = await service.get(link)
        assert reply.status_code == 200 and f"{part}, 0, k = 0" in reply.text

    drawn = files["figures/multi-0.svg"]
    for turn, share in enumerate(facts["evaluations"][0]["measures"]["multi_at"]):
        assert f"base: {round(100 * share, 1):g} %" in drawn, turn
    assert "From evaluate-0-0" in drawn and "From evaluate-0-1" in files["figures/multi-1.svg"]


async def test_a_job_that_has_measured_nothing_has_a_report(service: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.generation = "auto"
    job = await submit(service)
    status = await finish(service, job)
    files = await ask_bundle(service, job)
    assert set(files) == {"report.md", "report.json"}
    assert status.error and status.error.split(".")[0] in files["report.md"].replace("\\", "")


def series(**values: Sequence[float | None]) -> list[Series]:
    return [Series(label=label, values=list(points)) for label, points in values.items()]


def test_points_lie_where_their_values_are() -> None:
    chart = Chart(key="c", title="t", x=[1.0, 2.0, 3.0], x_label="k", percent=True, series=series(a=[0.0, 0.5, 1.0]))
    picture = ElementTree.fromstring(draw_svg(chart))
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in picture.iter(f"{SVG}circle")]
    (x0, y0), (x1, y1), (x2, y2) = dots
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and x0 < x1
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2) and y0 > y1


def test_bars_stand_on_zero_beside_each_other() -> None:
    chart = Chart(
        key="c", title="t", kind="bars", x=[0.0, 1.0], x_label="", ticks=["p", "q"], series=series(a=[1, 4], b=[2, 0])
    )
    bars = [
        bar.attrib
        for bar in ElementTree.fromstring(draw_svg(chart)).iter(f"{SVG}rect")
        if "bar" in bar.get("class", "")
    ]
    assert len(bars) == 3  # nothing is drawn for nothing
    foot = {round(float(bar["y"]) + float(bar["height"]), 1) for bar in bars}
    assert len(foot) == 1
    by_value = sorted(float(bar["height"]) for bar in bars)
    assert by_value[2] == pytest.approx(4 * by_value[0], abs=0.5)
    spans = sorted((float(bar["x"]), float(bar["x"]) + float(bar["width"])) for bar in bars)
    assert all(right <= left + 0.11 for (_, right), (left, _) in itertools.pairwise(spans))


@pytest.mark.parametrize("values", [[None, None], [], [0.0, 0.0], [-1.5, 2.0], [1e-9, 2e-9], [1e12, 3e12]])
def test_any_values_make_a_picture(values: list[float | None]) -> None:
    x = [float(place) for place in range(len(values))]
    for kind in ("line", "bars"):
        chart = Chart(key="c", title="t", kind=kind, x=x, x_label="k", series=series(a=values))
        text = draw_svg(chart)
        ElementTree.fromstring(text)
        assert "nan" not in text and "inf" not in text


def test_text_from_outside_is_text() -> None:
    chart = Chart(key="c", title=HOSTILE, x=[1.0], x_label=HOSTILE, ticks=[HOSTILE], series=series(**{HOSTILE: [0.5]}))
    picture = ElementTree.fromstring(draw_svg(chart, [HOSTILE]))
    assert not list(picture.iter(f"{SVG}script"))
    assert HOSTILE in {"".join(text.itertext()) for text in picture.iter(f"{SVG}text")}


def outcomes(solved: list[list[bool]]) -> Outcomes:
    """Groups by whether each of their trajectories succeeded, at the turn that is its place plus one."""
    size, n = len(solved[0]), len(solved) * len(solved[0])
    place = np.tile(np.arange(size), len(solved))
    return Outcomes(
        group=np.repeat(np.arange(len(solved)), size),
        k=place.astype(np.int32),
        group_size=np.full(n, size, np.int32),
        ending=np.where(np.array(solved).ravel(), 0, 1).astype(np.int8),
        turns=(place + 1).astype(np.int16),
        answered=(place + 1).astype(np.int16),
        distinct=np.ones(n, np.int16),
        verdicts=np.zeros(n, np.uint8),
    )


def test_composition_at_k_counts_the_first_k_of_each_group() -> None:
    found = {
        one.trajectories: (one.all_correct, one.mixed, one.all_wrong)
        for one in compose_at(outcomes([[True, True, False], [False, False, True], [False, False, False]]))
    }
    assert found == {
        1: pytest.approx((1 / 3, 0, 2 / 3)),
        2: pytest.approx((1 / 3, 0, 2 / 3)),
        3: pytest.approx((0, 2 / 3, 1 / 3)),
    }
    assert compose_at(Outcomes.of([])) == []


def test_a_sweep_has_the_effective_sizes_of_the_formulas() -> None:
    own = ReturnSpec(gamma=0.8, beta=0.3)
    recorded = outcomes([[True, True, False, False]])
    for sweep in sweep_constants(recorded, own):
        for beta, size in zip(sweep.betas, sweep.effective_sample_size, strict=True):
            returns = recorded.score(own.model_copy(update={"gamma": sweep.gamma}))
            weights = weigh(returns.tolist(), beta)
            assert size == pytest.approx(sum(weights) ** 2 / sum(weight**2 for weight in weights))
    assert {sweep.gamma for sweep in sweep_constants(recorded, own)} == {0.7, 0.8, 0.9, 1.0}
