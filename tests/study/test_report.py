"""The report of a whole study: every table and figure, with the seeds and the hardware that its numbers are of."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from cli.study.figures import draw_steps, draw_times
from cli.study.ledger import Ledger
from cli.study.report import write_report
from cli.study.results import Results, collect
from cli.study.study_file import Study
from cli.study.tables import AXES
from cli.study.times import take_medians
from tests.study.recorded import STUDY, record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    study = Study.model_validate(STUDY)
    ledger = Ledger(folder, study.name)
    record(study, ledger)
    write_report(folder, collect(study, ledger), "drift study FILE")
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return Results.model_validate_json((folder / "results.json").read_bytes())


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "results.md").read_text()


def test_there_is_a_figure_a_set_a_setting_and_of_the_times_and_the_page_shows_each(folder: Path, page: str) -> None:
    axes = Study.model_validate(STUDY).sweep
    assert axes
    wanted = {"turns-test-jsonl", "turns-other-jsonl", "groups", "times", *(f"sweep-{axis}" for axis in axes.axes)}
    assert {path.stem for path in (folder / "figures").iterdir()} == wanted
    assert {match[1] for match in re.finditer(r"\]\(figures/(.+)\.svg\)", page)} == wanted
    assert all(f"## {AXES[axis]}" in page for axis in axes.axes)


def test_the_headline_gives_the_difference_of_each_seed(results: Results, page: str) -> None:
    (one,) = [
        one for one in results.datasets["test.jsonl"].differences if (one.method, one.other) == ("drift", "sft_5turn")
    ]
    (line,) = [line for line in page.splitlines() if line.startswith("**DRIFT less SFT-5turn")]
    assert results.drift_minus_sft5turn == one.multi_at[-1]
    for seed, by_turn in zip([1, 2, 3], one.multi_at_by_seed, strict=True):
        assert f"{100 * by_turn[-1]:+.1f} (seed {seed})" in line


def test_every_row_has_a_cell_for_each_column(page: str) -> None:
    rows = [(line.startswith("|"), len(re.findall(r"(?<!\\)\|", line))) for line in page.splitlines()]
    inside = [(above, below) for (is_row, above), (also, below) in pairwise(rows) if is_row and also]
    assert len(inside) > 50
    assert all(above == below for above, below in inside)


def test_accuracy_over_steps_is_drawn_over_steps(results: Results) -> None:
    points = [point for point in results.sweep if point.axis == "steps"]
    panel = draw_steps(points).axes[0]
    for line, turn in zip(panel.get_lines(), (0, -1), strict=True):
        assert np.asarray(line.get_xdata()).tolist() == [2, 4, 6]
        wanted = [100 * point.measures["test.jsonl"].multi_at[turn] for point in points]
        assert np.asarray(line.get_ydata()).tolist() == pytest.approx(wanted)


def test_times_are_drawn_by_turn_budget_with_what_is_skipped_and_on_what(results: Results, folder: Path) -> None:
    told = [one for one in results.times if one.method == "drift" and one.axis in (None, "max_turns")]
    figure = draw_times(take_medians(told), "a machine")
    (panel,) = figure.axes
    assert [bar.get_height() for bar in panel.patches if isinstance(bar, Rectangle)] == [10, 10, 20, 20]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1\nseed 1", "3\n3 seeds"]
    assert "skips 62 % of the tokens (epsilon 0.001)" in panel.get_title()
    drawn = (folder / "figures" / "times.svg").read_text()
    assert results.environment["machine"] in drawn and "skips nothing" in drawn
