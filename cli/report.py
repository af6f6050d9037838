"""A job's result for the terminal, as a table; and its whole report, as the service makes it, on disk."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
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
    """The job's evaluations, set by set."""
    return [Comparison(each[0].dataset, each) for each in status.evaluations_by_set()]


def build_table(comparison: Comparison) -> Table:
    """For the terminal."""
    first = comparison.evaluations[0]
    table = Table(title=f"{escape(comparison.dataset)}: {first.n} problems, greedy, {len(first.multi_at)} turns")
    for position, title in enumerate(comparison.header):
        table.add_column(title, justify="right" if position else "left")
    for row in comparison.rows:
        table.add_row(*row.cells())
    return table


def describe_rollouts(status: JobStatus) -> list[str]:
    """A line for each stage's rollouts."""
    return [
        f"rollouts, {each.policy}: {each.trajectories} trajectories in {each.seconds:.0f} s, solved by turn "
        + ", ".join(_number(share, percent=True) for share in each.multi_at)
        + (f"; {each.ungraded} ungraded, {each.failed} failed" if each.ungraded or each.failed else "")
        for each in status.rollouts
    ]


def unpack_report(zipped: bytes, folder: Path) -> list[Path]:
    """Write the service's report (`/report?format=zip`) into the folder; the files, `report.md` first."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        return [Path(archive.extract(name, folder)) for name in archive.namelist()]


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:.2f}"


def _change(value: float, percent: bool) -> str:
    return f"{100 * value:+.1f}" if percent else f"{value:+.2f}"
