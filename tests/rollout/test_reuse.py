"""A job trains on what another has rolled out, without new rollouts; and begins with a policy that another trained."""

from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from shared import keys
from shared.status import State
from shared.training import TrainingState, TrainingStatus, TrainingTask
from tests.fakes.engine import FakeEngine
from tests.rollout.client import PROBLEMS, finish, submit, until


def count_questions(engine: FakeEngine) -> int:
    """Requests about problems; a job also asks the engine a word to see that it is fit."""
    return sum("Question" in str(body["messages"]) for body in engine.requests)


async def train(service: httpx.AsyncClient, redis: Redis, job: str, checkpoint: str) -> TrainingTask:
    """Be the trainer of one job: its task."""
    await until(service, job, lambda status: bool(status.trainings) or status.state.final)  # it is handed out by then
    entry = ((await redis.xrevrange(keys.TRAININGS, count=1)) or [])[0][1] or {}
    task = TrainingTask.model_validate_json(entry["task"])
    assert task.job == job
    done = TrainingStatus(state=TrainingState.SUCCEEDED, stage=task.stage, checkpoint=checkpoint)
    await redis.set(keys.training(job, task.stage), done.model_dump_json())
    return task


async def test_a_training_on_recorded_rollouts_asks_the_engine_for_none(
    service: httpx.AsyncClient, redis: Redis, engine: FakeEngine, tmp_path: Path
) -> None:
    other = str(tmp_path / "other")
    Path(other).mkdir()
    source = await submit(service, sampling={"trajectories": 3})
    assert (await finish(service, source)).rollouts[0].composition.all_correct == len(PROBLEMS)
    asked = count_questions(engine)
    job = await submit(
        service, dataset=None, rollouts_of=source, returns={"gamma": 0.5}, train={"steps": 3, "objective": "star"}
    )
    task = await train(service, redis, job, other)
    assert (task.source, task.groups, task.group_size) == (source, len(PROBLEMS), 3)
    assert (task.model, task.stage, task.returns.gamma, task.train.objective) == ("/weights/base", 0, 0.5, "star")
    status = await finish(service, job)
    assert (status.state, status.checkpoint, status.rollouts) == (State.SUCCEEDED, other, [])
    assert count_questions(engine) == asked
    assert [timing.step for timing in status.timings] == ["prepare", "train"]

    later = await submit(
        service, dataset=None, start_from={"job": job}, evaluate=[{"problems": PROBLEMS}, {"problems": PROBLEMS[:2]}]
    )
    status = await finish(service, later)
    assert status.state is State.SUCCEEDED, status.error
    assert engine.loads[-1] == other
    assert [(each.n, each.multi_at[0]) for each in status.evaluations] == [(6, 1), (2, 1)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rollouts_of": "20260101-000000-abcdef"}, "rollouts_of: There is no job"),
        ({"rollouts_of": "../../etc"}, "rollouts_of"),
        ({"rollouts_of": "EVALUATION"}, "rolled out nothing itself"),
        ({"rollouts_of": "CANCELLED"}, "cancelled before its rollouts were complete"),
        ({"rollouts_of": "EVALUATION", "train": None}, "give `train`"),
        ({"rollouts_of": "EVALUATION", "dataset": {"problems": PROBLEMS}}, "not both"),
        ({"rollouts_of": "EVALUATION", "refresh": {"stages": 2}}, "leave out `refresh`"),
        ({"start_from": {"job": "EVALUATION"}, "dataset": {"problems": PROBLEMS}}, "no trained policy"),
        ({"start_from": {"job": "20260101-000000-abcdef"}, "dataset": {"problems": PROBLEMS}}, "start_from.job"),
    ],
)
async def test_what_cannot_be_reused_is_refused_by_name(
    service: httpx.AsyncClient, engine: FakeEngine, change: dict[str, object], named: str
) -> None:
    text = str(change)
    known = {}
    if "EVALUATION" in text:
        known["EVALUATION"] = await submit(service, dataset=None, evaluate=[{"problems": PROBLEMS[:1]}])
        await finish(service, known["EVALUATION"])
    if "CANCELLED" in text:
        engine.latency_s = 30
        known["CANCELLED"] = await submit(service)
        await service.delete(f"/v1/jobs/{known['CANCELLED']}")
        await finish(service, known["CANCELLED"])
    if change.get("rollouts_of") in known:
        change = change | {"rollouts_of": known[str(change["rollouts_of"])]}
    if change.get("start_from") == {"job": "EVALUATION"}:
        change = change | {"start_from": {"job": known["EVALUATION"]}}
    reply = await service.post("/v1/jobs", json={"train": {"steps": 1}} | change)
    assert reply.status_code == 422, reply.text
    assert named in reply.json()["detail"]
