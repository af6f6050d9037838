"""The live figures of a job, part by part: measures from the sums that publishing adds up, and its trainings."""

import time
from collections.abc import Mapping

from services.rollout.evaluation import evaluate
from services.rollout.jobs import Jobs
from services.rollout.steps import plan_steps, policy_name
from shared.job import JobSpec
from shared.measures import Evaluation
from shared.schema import Schema
from shared.status import JobStatus, State
from shared.training import TrainingStatus
from shared.trajectory import Phase, part_name


class PartMetrics(Schema):
    """One rollout or evaluation, finished or under way."""

    part: str
    """`rollout-STAGE` or `evaluate-STAGE-DATASET`."""
    phase: Phase
    trajectories: int
    """Published so far."""
    total: int
    turns: int
    generated_tokens: int
    seconds: float
    """So far, waiting included."""
    tokens_per_s: float
    verdicts: dict[str, int]
    """Turns by verdict."""
    endings: dict[str, int]
    """Trajectories by ending."""
    measures: Evaluation
    """Over all usable trajectories; for intervals over a rollout's problems see `/report`."""


class JobMetrics(Schema):
    """All figures of a job at this moment."""

    id: str
    state: State
    phase: str | None
    time: float
    """Unix time, seconds."""
    parts: list[PartMetrics]
    trainings: list[TrainingStatus]


async def measure_job(jobs: Jobs, spec: JobSpec, status: JobStatus) -> JobMetrics:
    """Read the sums of every part that has any."""
    spent = {(one.step, one.stage, one.dataset): one.seconds for one in status.timings}
    parts: list[PartMetrics] = []
    for place, step in enumerate(plan_steps(spec)):
        if step.kind not in ("rollout", "evaluate"):
            continue
        sums = await jobs.counts(status.id, part_name(step.kind, step.stage, step.dataset))
        if not sums:
            continue
        dataset = spec.dataset if step.kind == "rollout" else spec.evaluate[step.dataset]
        assert dataset is not None
        seconds = spent.get((step.kind, step.stage, step.dataset), 0.0)
        if place == status.steps_done and status.step_started:
            seconds = (status.finished or time.time()) - status.step_started
        groups = status.problems[0 if step.kind == "rollout" else step.dataset + 1]
        tokens = int(sums.get("tokens", 0))
        parts.append(
            PartMetrics(
                part=part_name(step.kind, step.stage, step.dataset),
                phase=step.kind,
                trajectories=int(sums.get("published", 0)),
                total=groups * (spec.sampling.trajectories if step.kind == "rollout" else 1),
                turns=int(sums.get("turns", 0)),
                generated_tokens=tokens,
                seconds=seconds,
                tokens_per_s=tokens / seconds if seconds else 0.0,
                verdicts=_count(sums, "verdict:"),
                endings=_count(sums, "ending:"),
                measures=evaluate(
                    sums,
                    dataset=dataset.name,
                    policy=policy_name(step.stage),
                    stage=step.stage,
                    max_turns=spec.protocol.max_turns,
                ),
            )
        )
    return JobMetrics(
        id=status.id,
        state=status.state,
        phase=status.phase,
        time=time.time(),
        parts=parts,
        trainings=status.trainings,
    )


def _count(sums: Mapping[str, float], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): int(value) for name, value in sorted(sums.items()) if name.startswith(prefix)}
