"""What the job API promises, from POST to the last trajectory."""

import httpx

from services.rollout.engines.inspection import PROBE
from tests.fakes.engine import FakeEngine
from tests.rollout.client import PROBLEMS, finish, submit


async def test_a_rollout_job_records_every_trajectory_once_with_return_and_weight(
    service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    job = await submit(service, sampling={"trajectories": 4, "max_tokens": 8})
    status = await finish(service, job)
    assert status.state == "succeeded", status.error
    page = (await service.get(f"/v1/jobs/{job}/trajectories", params={"limit": 1000})).json()
    found = [(each["group"], each["k"]) for each in page["trajectories"]]
    assert found == [(group, k) for group in range(6) for k in range(4)]
    assert page["next"] is None
    assert {each["return"] for each in page["trajectories"]} == {0.9}
    assert {each["weight"] for each in page["trajectories"]} == {1.0}
    assert [turn["verdict"] for turn in page["trajectories"][0]["turns"]] == ["incorrect", "correct"]


async def test_pages_join_without_gap_or_overlap(service: httpx.AsyncClient) -> None:
    job = await submit(service, sampling={"trajectories": 3})
    await finish(service, job)
    seen: list[str] = []
    after = None
    while True:
        params = {"limit": 4} | ({"after": after} if after else {})
        page = (await service.get(f"/v1/jobs/{job}/trajectories", params=params)).raise_for_status().json()
        seen += [each["id"] for each in page["trajectories"]]
        after = page["next"]
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 18


async def test_an_evaluation_measures_greedy_episodes(service: httpx.AsyncClient, engine: FakeEngine) -> None:
    job = await submit(service, dataset=None, evaluate=[{"problems": PROBLEMS}])
    status = await finish(service, job)
    assert status.state == "succeeded", status.error
    (measured,) = status.evaluations
    assert measured.n == 6
    assert measured.multi_at == [0, 1, 1, 1, 1]
    assert measured.correction_rate == 1
    assert {body["temperature"] for body in engine.requests} == {0}


async def test_sampling_is_neutral_and_carries_no_seed(service: httpx.AsyncClient, engine: FakeEngine) -> None:
    await finish(service, await submit(service, sampling={"trajectories": 1, "temperature": 0.7}))
    asked = [body for body in engine.requests if body["messages"] != PROBE]
    assert asked
    for body in asked:
        assert "seed" not in body
        assert body["temperature"] == 0.7
        assert (body["top_p"], body["top_k"], body["min_p"], body["repetition_penalty"]) == (1.0, -1, 0.0, 1.0)


async def test_an_engine_that_fails_for_a_while_costs_no_trajectory(
    service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.broken = 10
    job = await submit(service, sampling={"trajectories": 4})
    status = await finish(service, job)
    assert status.state == "succeeded"
    assert status.rollouts[0].trajectories == 24
    assert status.rollouts[0].failed == 0


async def test_grading_by_string_equality_takes_nothing_but_the_very_text(
    service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    half = {"id": "half", "kind": "math", "problem": "Question?", "answer": r"\frac{1}{2}"}
    engine.script = lambda messages, weights: "<answer> 1/2 </answer>"
    solved: dict[str, float] = {}
    for grading in ("own", "string"):
        job = await submit(
            service, dataset=None, evaluate=[{"problems": [half]}], protocol={"max_turns": 1, "grading": grading}
        )
        solved[grading] = (await finish(service, job)).evaluations[0].multi_at[0]
    assert solved == {"own": 1, "string": 0}
