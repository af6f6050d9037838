"""The report for people, as Markdown: tables, figures, and for every number the part of the job that it comes from.

A table's columns and a figure's sources are links to the trajectories that were counted. Text from outside stays on
its line and is no markup.
"""

from collections.abc import Iterator, Sequence

from services.rollout.metrics import PartMetrics
from services.rollout.report.facts import JobReport, RolloutReport
from services.rollout.report.figures import Figure
from shared.training import TrainingStatus


def write_markdown(report: JobReport, figures: Sequence[Figure], url: str) -> str:
    """The whole page; `url` is where the service is reached, without a slash at its end."""
    parts = [*report.evaluations, *(one.figures for one in report.rollouts)]
    lines = [
        *_write_head(report, url),
        *_write_evaluations(report),
        *_write_rollouts(report.rollouts),
        *_write_trainings(report.trainings),
        *_write_figures(figures),
        *_write_times(report),
        *_write_sources(report.id, parts, url),
    ]
    return "\n".join(lines).rstrip() + "\n"


def write_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose cells are Markdown; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)] + [""]


def escape(text: str) -> str:
    """Text from outside."""
    return " ".join(text.split()).translate({ord(mark): f"\\{mark}" for mark in "\\`*_|<>[]#"})


def percent(share: float) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * share:.1f} %"


def _write_head(report: JobReport, url: str) -> Iterator[str]:
    yield from (f"# {report.name} ({report.id}): {report.state}", "")
    if report.error:
        yield from (f"**Error:** {escape(report.error)}", "")
    yield f"Model `{report.model}` from `{report.base}`; checkpoint `{report.checkpoint or 'none'}`."
    yield from (f"[The job]({url}/jobs/{report.id}), [what it was asked]({url}/v1/jobs/{report.id}/spec).", "")
    if any(report.skipped_rows):
        yield from (f"Bad rows left out: {sum(report.skipped_rows)}.", "")
        yield from (*(f"- {escape(reason)}" for reason in report.skipped_reasons), "")


def _write_evaluations(report: JobReport) -> Iterator[str]:
    for parts in report.by_dataset():
        yield from (f"## Evaluation on {escape(parts[0].measures.dataset)}", "")
        yield from ("Greedy decoding; 95 % intervals over problems.", "")
        yield from _compare(parts)


def _write_rollouts(rollouts: Sequence[RolloutReport]) -> Iterator[str]:
    if not rollouts:
        return
    yield from ("## Rollouts", "")
    yield from _compare([one.figures for one in rollouts])
    header = ["groups of", "complete", "all correct", "mixed", "all wrong", "spoiled", "mean ESS", "least ESS"]
    rows: list[list[str]] = []
    for one in rollouts:
        groups, size = one.composition, one.effective_sample_size
        counts = (groups.all_correct, groups.mixed, groups.all_wrong)
        shares = [percent(count / max(groups.complete, 1)) for count in counts]
        sizes = [f"{size.mean:.2f}", f"{size.min:.2f}"] if size else ["", ""]
        rows.append([_link(one.figures), str(groups.complete), *shares, str(groups.spoiled), *sizes])
    yield from write_table(header, rows)


def _compare(parts: Sequence[PartMetrics]) -> list[str]:
    measures = [part.measures for part in parts]
    turns = max(len(one.multi_at) for one in measures)
    rows = [
        [f"multi@{turn + 1}", *(_with_interval(one.multi_at[turn], one.interval[turn]) for one in measures)]
        for turn in range(turns)
    ]
    rows += [
        ["correction rate", *(_with_interval(one.correction_rate, one.correction_interval) for one in measures)],
        ["correction rate by turn", *(", ".join(map(percent, one.correction_rate_at[1:])) for one in measures)],
        [
            "solved rate by turn",
            *(", ".join(map(_with_interval, one.solved_rate_at, one.solved_interval_at)) for one in measures),
        ],
        ["unique answers (U/A)", *(f"{one.unique_answers:.3f}" for one in measures)],
        ["distinct answers, all", *(f"{one.distinct_answers:.2f}" for one in measures)],
        ["distinct answers, wrong", *(f"{one.distinct_answers_wrong:.2f}" for one in measures)],
        ["turns without an answer", *(percent(one.unparsable) for one in measures)],
        ["counted / ungraded or failed", *(f"{one.n} / {one.ungraded}" for one in measures)],
        ["turns / tokens", *(f"{part.turns} / {part.generated_tokens}" for part in parts)],
        ["tokens a second", *(f"{part.tokens_per_s:.0f}" for part in parts)],
    ]
    return write_table(["", *map(_link, parts)], rows)


def _with_interval(share: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{percent(share)} [{100 * low:.1f}, {100 * high:.1f}]"


def _write_trainings(trainings: Sequence[TrainingStatus]) -> Iterator[str]:
    if not trainings:
        return
    header = [
        "stage",
        "state",
        "steps",
        "first loss",
        "last loss",
        "skipped",
        "their weight",
        "their tokens",
        "mean ESS",
    ]
    rows = [
        [
            str(one.stage), one.state, f"{one.step}/{one.steps}",
            *([f"{one.losses[0]:.4f}", f"{one.losses[-1]:.4f}"] if one.losses else ["", ""]),
            f"{one.skipped} of {one.trajectories}", f"{100 * one.skipped_mass:.4f} %",
            percent(one.skipped_token_share),
            f"{one.effective_sample_size:.2f}" if one.effective_sample_size else "",
        ]
        for one in trainings
    ]  # fmt: skip
    yield from ("## Training", "", *write_table(header, rows))


def _write_figures(figures: Sequence[Figure]) -> Iterator[str]:
    if figures:
        yield from ("## Figures", "")
    for figure in figures:
        yield from (f"![{escape(figure.chart.title)}]({figure.file})", "")
        if figure.sources:
            yield from (f"From {', '.join(f'[{part}]' for part in figure.sources)}.", "")


def _write_times(report: JobReport) -> list[str]:
    if not report.timings:
        return []
    rows = [[f"{one.step} {one.stage}.{one.dataset}", f"{one.seconds:.1f}"] for one in report.timings]
    return ["## Time", "", *write_table(["step (stage.dataset)", "seconds"], rows)]


def _write_sources(job: str, parts: Sequence[PartMetrics], url: str) -> list[str]:
    """Where the links above lead; Markdown shows nothing of it."""
    return [f"[{part.part}]: {url}/jobs/{job}/trajectories?part={part.part}" for part in parts]


def _link(part: PartMetrics) -> str:
    return f"[{part.measures.policy}][{part.part}]"
