"""A job's result: `report.json` (the job as the API gives it) and for people a table, `curves.png` and `report.md`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from shared.measures import Evaluation
from shared.status import JobStatus


@dataclass(frozen=True)
class Row:
    """One measured quantity, under each policy in order."""

    name: str
    values: list[float]
    percent: bool = True

    def cells(self) -> list[str]:
        """The name, each policy's value, and the last policy's change over the first."""
        shown = [_number(value, self.percent) for value in self.values]
        if len(self.values) > 1:
            shown.append(_change(self.values[-1] - self.values[0], self.percent))
        return [self.name, *shown]


@dataclass(frozen=True)
class Comparison:
    """All evaluations on one dataset, in the order of their policies."""

    dataset: str
    evaluations: list[Evaluation]

    @property
    def header(self) -> list[str]:
        change = ["change"] if len(self.evaluations) > 1 else []
        return ["", *(evaluation.policy for evaluation in self.evaluations), *change]

    @property
    def rows(self) -> list[Row]:
        turns = range(len(self.evaluations[0].multi_at))
        multi = [Row(f"multi@{k + 1}", [evaluation.multi_at[k] for evaluation in self.evaluations]) for k in turns]
        return [
            *multi,
            Row("correction rate", [evaluation.correction_rate for evaluation in self.evaluations]),
            Row("unique answers (U/A)", [evaluation.unique_answers for evaluation in self.evaluations], percent=False),
            Row("turns without an answer", [evaluation.unparsable for evaluation in self.evaluations]),
        ]


def compare(status: JobStatus) -> list[Comparison]:
    """The job's evaluations by dataset, in the order of first appearance."""
    names = dict.fromkeys(evaluation.dataset for evaluation in status.evaluations)
    return [Comparison(name, [each for each in status.evaluations if each.dataset == name]) for name in names]


def build_table(comparison: Comparison) -> Table:
    """For the terminal."""
    first = comparison.evaluations[0]
    table = Table(title=f"{comparison.dataset}: {first.n} problems, greedy, {len(first.multi_at)} turns")
    for position, title in enumerate(comparison.header):
        table.add_column(title, justify="right" if position else "left")
    for row in comparison.rows:
        table.add_row(*row.cells())
    return table


def write_report(folder: Path, status: JobStatus, job_json: bytes, seconds: dict[str, float]) -> Path:
    """Write `report.json`, `report.md` and, where something was evaluated, `curves.png`; the path of `report.md`.

    `job_json` is the API's own answer for the job, `seconds` how long each phase took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes(job_json)
    if status.evaluations:
        draw_curves(folder / "curves.png", status)
    report = folder / "report.md"
    report.write_text(_write_markdown(status, seconds))
    return report


def draw_curves(path: Path, status: JobStatus) -> None:
    """multi@k of every policy with its 95 % interval, one panel a dataset, and the training loss beside them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    comparisons = compare(status)
    losses = [training.losses for training in status.trainings if training.losses]
    panels = len(comparisons) + bool(losses)
    figure = Figure(figsize=(5.2 * panels, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for panel, comparison in zip(axes, comparisons, strict=False):
        for evaluation in comparison.evaluations:
            turns = range(1, len(evaluation.multi_at) + 1)
            line = panel.plot(
                turns, [100 * share for share in evaluation.multi_at], marker="o", label=evaluation.policy
            )[0]
            low, high = ([100 * bound for bound in bounds] for bounds in zip(*evaluation.interval, strict=True))
            panel.fill_between(turns, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
            panel.set_xticks(list(turns))
        panel.set(title=comparison.dataset, xlabel="turn k", ylabel="multi@k, % solved", ylim=(0, 100))
        panel.grid(alpha=0.3)
        panel.legend(loc="lower right")
    if losses:
        panel = axes[-1]
        for stage, values in enumerate(losses, start=1):
            panel.plot(range(1, len(values) + 1), values, label=f"stage {stage}")
        panel.set(title="training", xlabel="step", ylabel="weighted loss")
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def _write_markdown(status: JobStatus, seconds: dict[str, float]) -> str:
    lines = [f"# {status.name} ({status.id}): {status.state}", ""]
    if status.error:
        lines += [f"**Error:** {status.error}", ""]
    lines += [f"Model `{status.model}`, checkpoint `{status.checkpoint or 'none'}`.", ""]
    for comparison in compare(status):
        lines += [f"## {comparison.dataset}", ""]
        lines += [f"{comparison.evaluations[0].n} problems, greedy decoding.", ""]
        lines += _markdown_table(comparison.header, [row.cells() for row in comparison.rows])
        lines += ["95 % bootstrap interval of the last multi@k: " + _describe_intervals(comparison), ""]
    if status.evaluations:
        lines += ["![multi@k by turn](curves.png)", ""]
    if status.rollouts:
        lines += ["## Rollouts", ""]
        header = ["policy", "trajectories", "turns", "tokens generated", "solved by turn", "seconds"]
        lines += _markdown_table(
            header,
            [
                [
                    rollout.policy, str(rollout.trajectories), str(rollout.turns), str(rollout.generated_tokens),
                    ", ".join(_number(share, percent=True) for share in rollout.multi_at), f"{rollout.seconds:.0f}",
                ]
                for rollout in status.rollouts
            ],
        )  # fmt: skip
    if status.trainings:
        lines += ["## Training", ""]
        header = [
            "stage",
            "steps",
            "first loss",
            "last loss",
            "skipped",
            "skipped weight",
            "skipped tokens",
            "mean ESS",
        ]
        lines += _markdown_table(
            header,
            [
                [
                    str(training.stage), str(training.step),
                    *([f"{training.losses[0]:.4f}", f"{training.losses[-1]:.4f}"] if training.losses else ["", ""]),
                    f"{training.skipped} of {training.trajectories}", f"{100 * training.skipped_mass:.4f} %",
                    f"{100 * training.skipped_token_share:.0f} %",
                    f"{training.effective_sample_size:.2f}" if training.effective_sample_size else "",
                ]
                for training in status.trainings
            ],
        )  # fmt: skip
    if seconds:
        lines += ["## Time", ""]
        lines += _markdown_table(["phase", "seconds"], [[label, f"{spent:.0f}"] for label, spent in seconds.items()])
    return "\n".join(lines)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)] + [""]


def _describe_intervals(comparison: Comparison) -> str:
    parts = []
    for evaluation in comparison.evaluations:
        low, high = evaluation.interval[-1]
        parts.append(f"{evaluation.policy} {100 * low:.1f} to {100 * high:.1f} %")
    return "; ".join(parts) + "."


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:.2f}"


def _change(value: float, percent: bool) -> str:
    return f"{100 * value:+.1f}" if percent else f"{value:+.2f}"
