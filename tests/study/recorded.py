"""A study whose every task is recorded, without a service: outcomes drawn from a task's label, and made-up times."""

import random
from typing import Any

from cli.study.ledger import Ledger, TaskRecord
from cli.study.plan import Task, list_tasks, plan_runs
from cli.study.study_file import Study
from shared.measures import RolloutSummary
from shared.outcomes import PartOutcomes
from shared.status import JobStatus, State, StepTime
from shared.training import TrainingState, TrainingStatus
from shared.trajectory import Ending

PROBLEMS, TURNS, STOPPED_S = 20, 3, 10_000.0
JOB = "20260101-000000-abcdef"

STUDY: dict[str, Any] = {
    "name": "whole",
    "model": "weights/base",
    "base": {
        "dataset": {"path": "train.jsonl", "limit": 6},
        "protocol": {"max_turns": TURNS},
        "sampling": {"trajectories": 4, "max_tokens": 8},
        "train": {"steps": 6, "batch_size": 8},
        "evaluate": [{"path": "test.jsonl"}, {"path": "other.jsonl"}],
    },
    "methods": {"base": None, "sft_5turn": {"train": {"objective": "uniform"}}, "drift": {}},
    "seeds": [1, 2, 3],
    "sweep": {
        "seeds": [1, 2],
        "axes": {
            "gamma": [0.5],
            "beta": [0.5],
            "trajectories": [2, 8],
            "epsilon": [0],
            "steps": [2, 4],
            "feedback": ["Wrong | again"],
        },
    },
    "timing": {"methods": ["sft_5turn", "drift"], "max_turns": [1, TURNS]},
}


def record(study: Study, ledger: Ledger) -> None:
    """Every task; the jobs of seed 2 were stopped for a while."""
    for task in list_tasks(plan_runs(study)):
        ledger.write(_record(task))


def _record(task: Task) -> TaskRecord:
    usual = {"rollout": 10.0, "train": 20.0, "evaluate": 30.0}[task.kind]
    seconds = {"prepare": 1.0, task.kind: STOPPED_S if "seed 2" in task.label else usual}
    status = JobStatus(
        id=JOB, name="job", state=State.SUCCEEDED, created=0,
        timings=[StepTime(step=step, stage=0, dataset=0, seconds=spent) for step, spent in seconds.items()],
        rollouts=[_summarise()] if task.kind == "rollout" else [],
        trainings=[_train(task)] if task.kind == "train" else [],
    )  # fmt: skip
    sizes = {"rollout": [task.spec.sampling.trajectories], "train": [], "evaluate": [1] * len(task.spec.evaluate)}
    outcomes = [_play(f"{task.label} {place}", size) for place, size in enumerate(sizes[task.kind])]
    return TaskRecord(key=task.key, label=task.label, status=status, outcomes=outcomes)


def _summarise() -> RolloutSummary:
    return RolloutSummary(
        stage=0, policy="base", trajectories=24, ungraded=0, failed=0, multi_at=[0.5] * TURNS, turns=48,
        generated_tokens=100, verdicts={}, seconds=10,
    )  # fmt: skip


def _train(task: Task) -> TrainingStatus:
    assert task.spec.train
    skips = task.spec.train.objective == "drift" and task.spec.train.epsilon > 0
    return TrainingStatus(state=TrainingState.SUCCEEDED, stage=0, skipped_token_share=0.625 if skips else 0.0)


def _play(label: str, size: int) -> PartOutcomes:
    """Problem 0 is ungraded where beta is changed."""
    rng = random.Random(label)
    solved_at = [rng.choice([0, *range(1, TURNS + 1)]) for _ in range(PROBLEMS * size)]
    endings: list[Ending] = ["solved" if at else "max_turns" for at in solved_at]
    if "evaluate" in label and "beta 0.5" in label:
        endings[0] = "ungraded"
    turns = [at or TURNS for at in solved_at]
    rows = range(PROBLEMS * size)
    return PartOutcomes(
        job=JOB, part="part", policy="policy", group=[row // size for row in rows], k=[row % size for row in rows],
        group_size=[size] * len(rows), ending=endings, turns=turns, answered=turns, distinct=[1] * len(rows),
    )  # fmt: skip
