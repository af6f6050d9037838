"""`results.json`, and for people `results.md` with its figures. A function of the results."""

from collections.abc import Sequence
from pathlib import Path

from cli.study.figures import draw_figures
from cli.study.results import Results
from cli.study.study_file import DRIFT, SFT_5TURN
from cli.study.tables import (
    points,
    write_average,
    write_axis,
    write_concentration,
    write_dataset,
    write_seeds,
    write_times,
)


def write_report(folder: Path, results: Results, command: str) -> Path:
    """Write all into the folder; the path of `results.md`. `command` is what regenerates it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(results.model_dump_json(indent=1) + "\n")
    figures = draw_figures(folder / "figures", results)
    path = folder / "results.md"
    path.write_text("\n".join(_write(results, figures, command)).rstrip() + "\n")
    return path


def _write(results: Results, figures: Sequence[Path], command: str) -> list[str]:
    lines = [f"# Study {results.study}", "", f"Model `{results.model}`. Made by `{command}` on:", ""]
    lines += [f"- {name}: {value}" for name, value in results.environment.items()] + [""]
    if results.pending:
        lines += [f"**Not measured yet:** {'; '.join(results.pending)}.", ""]
    lines += _write_headline(results)
    lines += [
        "Intervals: 95 %, bootstrap samples of problems and seeds together. Where there is one seed, or none as with "
        "the base, they cover problems only and say nothing of another training.",
        "",
    ]
    for name, dataset in results.datasets.items():
        lines += write_dataset(name, dataset, results.max_turns)
    if results.average and len(results.datasets) > 1:
        lines += write_average(results.average, results.datasets, results.max_turns)
    for axis in dict.fromkeys(point.axis for point in results.sweep):
        lines += write_axis([point for point in results.sweep if point.axis == axis], results.max_turns)
    lines += write_concentration(results.concentration)
    lines += write_times(results.times)
    lines += ["## Figures", ""]
    for path in figures:
        lines += [f"![{path.stem.replace('-', ' ')}](figures/{path.name})", ""]
    return lines


def _write_headline(results: Results) -> list[str]:
    dataset = results.datasets.get(results.dataset)
    return [
        line
        for one in (dataset.differences if dataset else [])
        if (one.method, one.other) == (DRIFT, SFT_5TURN)
        for line in (
            f"**DRIFT less SFT-5turn, multi@{results.max_turns} on {results.dataset}: {points(one.multi_at[-1])}.** "
            f"Seed by seed: {write_seeds(one)}.",
            "",
        )
    ]
