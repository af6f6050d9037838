"""`results.json`, and for people `results.md` with its figures. A function of the results."""

from collections.abc import Sequence
from pathlib import Path

from cli.study.concentration import Concentration
from cli.study.figures import draw_figures
from cli.study.measures import DatasetResults
from cli.study.results import Results, RunTime, SweepPoint
from cli.study.statistics import Estimate
from services.rollout.report.markdown import write_table

AXES = {
    "gamma": "gamma (figures 4 and 7)",
    "beta": "beta (figures 4 and 8)",
    "lambda": "lambda",
    "trajectories": "K, trajectories a problem (figure 9)",
    "feedback": "Feedback wording at evaluation (figure 4)",
    "steps": "Optimiser steps",
    "epsilon": "Skipping",
}


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
    for name, dataset in results.datasets.items():
        lines += _write_dataset(name, dataset, results.max_turns)
    lines += _write_average(results)
    for axis in dict.fromkeys(point.axis for point in results.sweep):
        lines += _write_axis(axis, [point for point in results.sweep if point.axis == axis])
    lines += _write_concentration(results.concentration)
    lines += _write_times(results.times)
    lines += ["## Figures", ""]
    for path in figures:
        lines += [f"![{path.stem.replace('-', ' ')}](figures/{path.name})", ""]
    return lines


def _write_headline(results: Results) -> list[str]:
    difference = results.drift_minus_sft5turn
    if difference is None:
        return []
    return [
        f"**DRIFT less SFT-5turn, multi@{results.max_turns} on {results.dataset}: {_points(difference)}.**",
        "",
    ]


def _write_dataset(name: str, dataset: DatasetResults, turns: int) -> list[str]:
    left_out = f", {dataset.left_out} left out as ungraded" if dataset.left_out else ""
    lines = [
        f"## {name}",
        "",
        f"{dataset.problems} problems{left_out}; greedy. 95 % intervals: problems and seeds.",
        "",
    ]
    header = ["method", "seeds", *(f"multi@{k}" for k in range(1, turns + 1)), "interval", "correction rate", "U/A"]
    header += ["distinct answers", "of wrong ones"]
    lines += write_table(
        header,
        [
            [
                method, str(len(one.seeds) or "-"), *(_percent(share) for share in one.multi_at),
                f"{_percent(one.interval[-1][0])} to {_percent(one.interval[-1][1])}", _percent(one.correction_rate),
                f"{one.unique_answers:.3f}", f"{one.distinct_answers:.2f}", f"{one.distinct_answers_wrong:.2f}",
            ]
            for method, one in dataset.methods.items()
        ],
    )  # fmt: skip
    if dataset.differences:
        lines += ["Paired differences in points, by problem and seed:", ""]
        lines += write_table(
            ["", "multi@1", f"multi@{turns}"],
            [
                [f"{one.method} - {one.other}", _points(one.multi_at[0]), _points(one.multi_at[-1])]
                for one in dataset.differences
            ],
        )
    return lines


def _write_average(results: Results) -> list[str]:
    if len(results.datasets) < 2:
        return []
    names = list(results.datasets)
    rows = [
        [method, *(_percent(results.datasets[name].methods[method].multi_at[-1]) for name in names), _percent(mean)]
        for method, mean in results.average.items()
    ]
    return [
        f"## multi@{results.max_turns} over all sets",
        "",
        *write_table(["method", *names, "mean"], rows),
    ]


def _write_axis(axis: str, points: Sequence[SweepPoint]) -> list[str]:
    lines = [f"## {AXES[axis]}", ""]
    rows = []
    for point in points:
        for name, one in point.measures.items():
            value = f"**{point.value}**" if point.own else str(point.value)
            low, high = one.interval[-1]
            shares = [_percent(share) for share in one.multi_at]
            interval = f"{_percent(low)} to {_percent(high)}"
            rows.append([value, name, str(len(one.seeds)), *shares, interval, _percent(one.solved_rate_at[0])])
    turns = len(points[0].measures[next(iter(points[0].measures))].multi_at)
    header = [axis, "set", "seeds", *(f"multi@{k}" for k in range(1, turns + 1)), "interval", "solved at turn 1 of all"]
    return lines + write_table(header, rows)


def _write_concentration(rows: Sequence[Concentration]) -> list[str]:
    if not rows:
        return []
    header = ["K", "beta", "all correct", "all wrong", "mixed", "ESS / K", "largest weight", "skipped", "their weight"]
    return [
        "## Groups and weights of the recorded rollouts (table 8, proposition 7)",
        "",
        *write_table(
            header,
            [
                [
                    str(one.k), f"{one.beta:g}",
                    *(
                        _percent(count / one.composition.complete if one.composition.complete else 0.0)
                        for count in (one.composition.all_correct, one.composition.all_wrong, one.composition.mixed)
                    ),
                    f"{one.effective_share:.2f}", _percent(one.top_share), _percent(one.skipped_share),
                    f"{100 * one.skipped_mass:.3f}",
                ]
                for one in rows
            ],
        ),
        "Shares in %; the largest weight is the share of its group's that one trajectory has.",
        "",
    ]  # fmt: skip


def _write_times(times: Sequence[RunTime]) -> list[str]:
    if not times:
        return []
    header = ["method", "seed", "", "turns", "rollout s", "training s", "evaluation s", "generated tokens"]
    rows = [
        [
            one.method, str(one.seed if one.seed is not None else ""), f"{one.axis} {one.value}" if one.axis else "",
            str(one.max_turns), f"{one.rollout_s:.0f}", f"{one.train_s:.0f}",
            "" if one.evaluate_s is None else f"{one.evaluate_s:.0f}", str(one.generated_tokens),
        ]
        for one in times
    ]  # fmt: skip
    return [
        "## Time on this hardware",
        "",
        "Rollouts that methods share count for each.",
        "",
        *write_table(header, rows),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(one: Estimate) -> str:
    return f"{100 * one.mean:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"
