"""The dashboard's pages, as far as no browser is needed."""

import re

import httpx

from services.rollout.dashboard.headline import choose_tiles
from shared.measures import Evaluation
from shared.status import JobStatus, State
from tests.rollout.client import submit


async def test_the_what_if_panel_takes_the_jobs_own_constants_whatever_they_are(service: httpx.AsyncClient) -> None:
    own = {"gamma": 0.01, "beta": 0.002, "lambda": 200.0, "phi": 1000.0}
    named = {"gamma": 0.01, "beta": 0.002, "repeat_penalty": 200.0, "format_penalty": 1000.0}
    job = await submit(service, returns=named)
    page = (await service.get(f"/jobs/{job}")).text
    for name, value in own.items():
        field = re.search(rf'<input type="number" name="{name}" ([^>]*)>', page)
        assert field
        bounds = dict(re.findall(r'(\w+)="([^"]*)"', field[1]))
        assert float(bounds["value"]) == value
        assert float(bounds["min"]) <= value <= float(bounds.get("max", "inf"))
    asked = {name: str(value) for name, value in own.items()}
    assert (await service.get(f"/jobs/{job}/what-if", params=asked)).status_code == 200


async def test_a_constant_that_no_job_may_have_is_refused_by_name(service: httpx.AsyncClient) -> None:
    job = await submit(service)
    for name in ("gamma", "beta", "lambda", "phi"):
        asked = {"gamma": 0.9, "beta": 0.1, "lambda": 0.5, "phi": 0.1} | {name: 5000}
        for route in (f"/jobs/{job}/what-if", f"/v1/jobs/{job}/weights"):
            reply = await service.get(route, params=asked)
            assert (reply.status_code, f"{name}: " in reply.json()["detail"]) == (422, True), f"{route}: {reply.text}"


def test_the_gain_is_of_one_set_even_where_two_have_the_same_name() -> None:
    def evaluation(policy: str, stage: int, solved: float) -> Evaluation:
        return Evaluation(
            dataset="test.jsonl", policy=policy, stage=stage, n=9, ungraded=0, unparsable=0.0,
            multi_at=[solved], interval=[[solved, solved]], correction_rate=0.0, correction_rate_at=[0.0],
            solved_rate_at=[1.0], unique_answers=1.0, distinct_answers=1.0, distinct_answers_wrong=1.0,
        )  # fmt: skip

    measured = [("base", 0, 0.1), ("base", 0, 0.6), ("stage-1", 1, 0.2), ("stage-1", 1, 0.7)]
    evaluations = [evaluation(*each) for each in measured]
    status = JobStatus(id="20260101-000000-abcdef", name="x", state=State.SUCCEEDED, created=0, evaluations=evaluations)
    gain = choose_tiles(status)[0]
    assert (gain.value, gain.note.split(" points")[0]) == ("20.0 %", "from 10.0 %, +10.0")
