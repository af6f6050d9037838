"""A job's report: its facts as JSON, and the same for people as Markdown.

Intervals are 95 % bootstrap intervals over problems: a problem's trajectories are drawn together, since they are
not independent of each other.
"""

from collections.abc import Sequence

import numpy as np

from services.rollout.archive import Archive, Recorded
from services.rollout.jobs import Jobs
from services.rollout.metrics import PartMetrics, measure_job
from services.rollout.outcomes import Floats, Outcomes
from services.rollout.weights import EffectiveSize, report_weights
from shared.job import JobSpec
from shared.measures import Composition
from shared.schema import Schema
from shared.status import JobStatus, State, StepTime
from shared.training import TrainingStatus

_RESAMPLES = 1000


class RolloutReport(Schema):
    """One stage's rollouts."""

    figures: PartMetrics
    interval: list[list[float]]
    """Of each multi@k, over problems."""
    composition: Composition
    effective_sample_size: EffectiveSize | None
    """Under the job's own constants."""


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


async def write_report(jobs: Jobs, archive: Archive, job: str) -> JobReport:
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
            _report_rollout(status, spec, part, recorded[part.part])
            for part in metrics.parts
            if part.phase == "rollout" and part.part in recorded
        ],
        trainings=status.trainings,
        timings=status.timings,
    )


def resample_problems(outcomes: Outcomes, max_turns: int, seed: int = 0) -> list[list[float]]:
    """95 % percentile interval of the share of trajectories solved by each turn, over resampled groups.

    Groups with the same numbers of solved trajectories are drawn as one, so that the cost does not grow with the job.
    """
    usable = outcomes.usable
    solved = np.stack([outcomes.success & (outcomes.turns <= turn) for turn in range(1, max_turns + 1)], axis=1)
    if not usable.any():
        return [[0.0, 0.0] for _ in range(max_turns)]
    columns = np.concatenate([solved & usable[:, None], usable[:, None]], axis=1).astype(np.int64)
    patterns, counts = np.unique(np.add.reduceat(columns, outcomes.starts), axis=0, return_counts=True)
    groups = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(groups, counts / groups, size=_RESAMPLES) @ patterns
    shares: Floats = drawn[:, :-1] / np.maximum(drawn[:, -1:], 1)
    return np.quantile(shares, (0.025, 0.975), axis=0).T.tolist()


def _report_rollout(status: JobStatus, spec: JobSpec, figures: PartMetrics, recorded: Recorded) -> RolloutReport:
    weights = report_weights(status.id, recorded, spec.returns, spec.returns, examples=0)
    return RolloutReport(
        figures=figures,
        interval=resample_problems(recorded.outcomes, spec.protocol.max_turns),
        composition=weights.composition,
        effective_sample_size=weights.effective_sample_size,
    )


def to_markdown(report: JobReport) -> str:
    """The report for people."""
    lines = [f"# {report.name} ({report.id}): {report.state}", ""]
    if report.error:
        lines += [f"**Error:** {_escape(report.error)}", ""]
    lines += [f"Model `{report.model}` from `{report.base}`; checkpoint `{report.checkpoint or 'none'}`.", ""]
    for dataset in dict.fromkeys(part.measures.dataset for part in report.evaluations):
        parts = [part for part in report.evaluations if part.measures.dataset == dataset]
        lines += [f"## Evaluation on {_escape(dataset)}", "", "Greedy decoding; 95 % intervals over problems.", ""]
        lines += _compare(parts, [part.measures.interval for part in parts])
    if report.rollouts:
        lines += ["## Rollouts", ""]
        lines += _compare([one.figures for one in report.rollouts], [one.interval for one in report.rollouts])
        lines += _describe_groups(report.rollouts)
    lines += _describe_trainings(report.trainings)
    if report.timings:
        rows = [[f"{one.step} {one.stage}.{one.dataset}", f"{one.seconds:.1f}"] for one in report.timings]
        lines += ["## Time", "", *_table(["step (stage.dataset)", "seconds"], rows)]
    if any(report.skipped_rows):
        lines += [f"Bad rows left out: {sum(report.skipped_rows)}.", ""]
        lines += [f"- {_escape(reason)}" for reason in report.skipped_reasons]
    return "\n".join(lines).rstrip() + "\n"


def _compare(parts: Sequence[PartMetrics], intervals: Sequence[list[list[float]]]) -> list[str]:
    turns = max(len(part.measures.multi_at) for part in parts)
    rows = [
        [f"multi@{turn + 1}", *(_with_interval(*one, turn) for one in zip(parts, intervals, strict=True))]
        for turn in range(turns)
    ]
    measures = [part.measures for part in parts]
    rows += [
        ["correction rate", *(percent(one.correction_rate) for one in measures)],
        ["solved rate by turn", *(", ".join(map(percent, one.solved_rate_at)) for one in measures)],
        ["unique answers (U/A)", *(f"{one.unique_answers:.3f}" for one in measures)],
        ["distinct answers, all", *(f"{one.distinct_answers:.2f}" for one in measures)],
        ["distinct answers, wrong", *(f"{one.distinct_answers_wrong:.2f}" for one in measures)],
        ["turns without an answer", *(percent(one.unparsable) for one in measures)],
        ["counted / ungraded or failed", *(f"{one.n} / {one.ungraded}" for one in measures)],
        ["turns / tokens", *(f"{part.turns} / {part.generated_tokens}" for part in parts)],
        ["tokens a second", *(f"{part.tokens_per_s:.0f}" for part in parts)],
    ]
    return _table(["", *(part.measures.policy for part in parts)], rows)


def _with_interval(part: PartMetrics, interval: list[list[float]], turn: int) -> str:
    low, high = interval[turn]
    return f"{percent(part.measures.multi_at[turn])} [{100 * low:.1f}, {100 * high:.1f}]"


def _describe_groups(rollouts: Sequence[RolloutReport]) -> list[str]:
    header = ["policy", "complete groups", "all correct", "mixed", "all wrong", "spoiled", "mean ESS", "least ESS"]
    rows: list[list[str]] = []
    for one in rollouts:
        groups, size = one.composition, one.effective_sample_size
        shares = [
            percent(count / max(groups.complete, 1)) for count in (groups.all_correct, groups.mixed, groups.all_wrong)
        ]
        sizes = [f"{size.mean:.2f}", f"{size.min:.2f}"] if size else ["", ""]
        rows.append([one.figures.measures.policy, str(groups.complete), *shares, str(groups.spoiled), *sizes])
    return _table(header, rows)


def _describe_trainings(trainings: Sequence[TrainingStatus]) -> list[str]:
    if not trainings:
        return []
    header = ["stage", "state", "steps", "first loss", "last loss", "skipped", "skipped weight", "mean ESS"]
    rows = [
        [
            str(one.stage), one.state, f"{one.step}/{one.steps}",
            *([f"{one.losses[0]:.4f}", f"{one.losses[-1]:.4f}"] if one.losses else ["", ""]),
            f"{one.skipped} of {one.trajectories}", f"{100 * one.skipped_mass:.4f} %",
            f"{one.effective_sample_size:.2f}" if one.effective_sample_size else "",
        ]
        for one in trainings
    ]  # fmt: skip
    return ["## Training", "", *_table(header, rows)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)] + [""]


def percent(share: float) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * share:.1f} %"


def _escape(text: str) -> str:
    """Text from outside stays on its line and is no markup."""
    return " ".join(text.split()).translate({ord(mark): f"\\{mark}" for mark in "\\`*_|<>[]#"})
