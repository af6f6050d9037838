"""The facts of a job, as JSON: everything that its figures and its page show.

Intervals are 95 % bootstrap intervals over problems: a problem's trajectories are drawn together, since they are
not independent of each other.
"""

import asyncio

import numpy as np

from services.rollout.archive import Archive, Recorded
from services.rollout.evaluation import Intervals, bound
from services.rollout.jobs import Jobs
from services.rollout.metrics import PartMetrics, measure_job
from services.rollout.outcomes import Outcomes
from services.rollout.weights import EffectiveSize, Histogram, report_weights
from shared.job import JobSpec
from shared.measures import Composition
from shared.returns import ReturnSpec
from shared.schema import Schema
from shared.status import JobStatus, State, StepTime
from shared.training import TrainingStatus

_RESAMPLES = 1000
_GAMMAS = (0.7, 0.9, 1.0)
_BETAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class CompositionAt(Schema):
    """Groups by outcome had only their first K trajectories been sampled; shares of the complete ones (paper D.9)."""

    trajectories: int
    """K."""
    all_correct: float
    mixed: float
    all_wrong: float


class Sweep(Schema):
    """How many of a group's trajectories would count under other constants."""

    gamma: float
    betas: list[float]
    effective_sample_size: list[float]
    """Mean over groups, for each beta."""


class RolloutReport(Schema):
    """One stage's rollouts."""

    figures: PartMetrics
    composition: Composition
    effective_sample_size: EffectiveSize | None
    """Under the job's own constants."""
    weights: Histogram
    """Of the trajectories' weights, under the job's own constants."""
    composition_at: list[CompositionAt]
    sweeps: list[Sweep]


class JobReport(Schema):
    """The facts of a job."""

    id: str
    name: str
    state: State
    error: str | None
    model: str | None
    base: str | None
    checkpoint: str | None
    spec: JobSpec
    problems: list[int]
    skipped_rows: list[int]
    skipped_reasons: list[str]
    evaluations: list[PartMetrics]
    rollouts: list[RolloutReport]
    trainings: list[TrainingStatus]
    timings: list[StepTime]

    def by_dataset(self) -> list[list[PartMetrics]]:
        """The evaluations of each dataset, in the order of their policies; two datasets may have the same name."""
        places = dict.fromkeys(part.part.rsplit("-", 1)[-1] for part in self.evaluations)
        return [[part for part in self.evaluations if part.part.endswith(f"-{place}")] for place in places]


async def gather_facts(jobs: Jobs, archive: Archive, job: str) -> JobReport:
    """Gather what is known now; a job that is still running has a report too. Raises `NotFound`."""
    status, spec = await jobs.get(job), await jobs.spec(job)
    metrics = await measure_job(jobs, spec, status)
    recorded = {part.part: part for part in await archive.read(job)}
    return JobReport(
        id=status.id,
        name=status.name,
        state=status.state,
        error=status.error,
        model=status.model,
        base=status.base,
        checkpoint=status.checkpoint,
        spec=spec,
        problems=status.problems,
        skipped_rows=status.skipped_rows,
        skipped_reasons=status.skipped_reasons,
        evaluations=[part for part in metrics.parts if part.phase == "evaluate"],
        rollouts=[
            await asyncio.to_thread(_report_rollout, status, spec, part, recorded[part.part])
            for part in metrics.parts
            if part.phase == "rollout" and part.part in recorded
        ],
        trainings=status.trainings,
        timings=status.timings,
    )


def resample_problems(outcomes: Outcomes, max_turns: int, seed: int = 0) -> Intervals:
    """Intervals of the shares of trajectories, over resampled groups.

    Groups with the same numbers of solved trajectories are drawn as one, so that the cost does not grow with the job.
    """
    usable = outcomes.usable
    solved = np.stack([outcomes.success & (outcomes.turns <= turn) for turn in range(1, max_turns + 1)], axis=1)
    if not usable.any():
        return bound(np.zeros((1, max_turns), np.int64), np.zeros(1, np.int64))
    columns = np.concatenate([solved & usable[:, None], usable[:, None]], axis=1).astype(np.int64)
    patterns, counts = np.unique(np.add.reduceat(columns, outcomes.starts), axis=0, return_counts=True)
    groups = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(groups, counts / groups, size=_RESAMPLES) @ patterns
    return bound(drawn[:, :-1], drawn[:, -1])


def _report_rollout(status: JobStatus, spec: JobSpec, figures: PartMetrics, recorded: Recorded) -> RolloutReport:
    weights = report_weights(status.id, recorded, spec.returns, spec.returns, examples=0)
    intervals = resample_problems(recorded.outcomes, spec.protocol.max_turns)
    measures = figures.measures.model_copy(update={**intervals})
    return RolloutReport(
        figures=figures.model_copy(update={"measures": measures}),
        composition=weights.composition,
        effective_sample_size=weights.effective_sample_size,
        weights=weights.weights,
        composition_at=compose_at(recorded.outcomes),
        sweeps=sweep_constants(recorded.outcomes, spec.returns),
    )


def compose_at(outcomes: Outcomes) -> list[CompositionAt]:
    """The composition for K = 1, 2, 4 and so on, up to the size of the groups."""
    groups = int(outcomes.weighable.sum())
    if not groups:
        return []
    index = np.repeat(np.arange(len(outcomes.sizes)), outcomes.sizes)
    most = int(outcomes.sizes[outcomes.weighable].max())
    found: list[CompositionAt] = []
    for size in sorted({*(1 << power for power in range(most.bit_length()) if 1 << power <= most), most}):
        counted = index[outcomes.success & (outcomes.k < size)]
        solved = np.bincount(counted, minlength=len(outcomes.sizes))[outcomes.weighable]
        right, wrong = float((solved == size).mean()), float((solved == 0).mean())
        found.append(CompositionAt(trajectories=size, all_correct=right, mixed=1 - right - wrong, all_wrong=wrong))
    return found


def sweep_constants(outcomes: Outcomes, own: ReturnSpec) -> list[Sweep]:
    """The mean effective sample size over a grid of gamma and beta, the job's own among them."""
    if not outcomes.weighable.any():
        return []
    betas = sorted({*_BETAS, own.beta})
    return [
        Sweep(
            gamma=gamma,
            betas=betas,
            effective_sample_size=[
                float(outcomes.effective_sizes(outcomes.weigh(asked)).mean())
                for asked in (own.model_copy(update={"gamma": gamma, "beta": beta}) for beta in betas)
            ],
        )
        for gamma in sorted({*_GAMMAS, own.gamma})
    ]
