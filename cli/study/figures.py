"""The paper's figures for a study, as SVG. The same results give the same bytes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.study.concentration import Concentration
from cli.study.measures import Measures
from cli.study.results import Results
from cli.study.sweep import SweepPoint
from cli.study.times import MedianTime, take_medians

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


HARDWARE = ("machine", "processor", "gpus")
"""What of the environment a figure of times names."""
_COLUMNS = 3
"""Panels side by side, so that a page as wide as its text shows them legibly."""


def draw_figures(folder: Path, results: Results) -> list[Path]:
    """Draw what there are results for; the files, in the order of the paper's figures."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []

    def save(figure: "Figure", name: str) -> None:
        import matplotlib as mpl

        drawn.append(folder / f"{name}.svg")
        with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure.savefig(drawn[-1], metadata={"Date": None})

    for name, dataset in results.datasets.items():
        save(draw_turns(name, dataset.methods), f"turns-{_slug(name)}")
    for axis in dict.fromkeys(point.axis for point in results.sweep):
        points = [point for point in results.sweep if point.axis == axis]
        save(draw_steps(points) if axis == "steps" else draw_axis(axis, points), f"sweep-{axis}")
    if results.concentration:
        save(draw_groups(results.concentration), "groups")
    if timed := {one.method for one in results.times if one.axis == "max_turns"}:
        told = [one for one in results.times if one.method in timed and one.axis in (None, "max_turns")]
        hardware = [results.environment[name] for name in HARDWARE if name in results.environment]
        save(draw_times(take_medians(told), ", ".join(hardware)), "times")
    return drawn


def draw_turns(title: str, methods: dict[str, Measures]) -> "Figure":
    """Figure 5: cumulative accuracy and correction rate, turn by turn."""
    figure, (left, right) = _begin(2)
    for method, one in methods.items():
        _draw_curve(left, range(1, len(one.multi_at) + 1), one.multi_at, one.interval, method)
        turns = range(2, len(one.correction_rate_at) + 1)
        right.plot(turns, [100 * rate for rate in one.correction_rate_at[1:]], marker="o", markersize=3, label=method)
    left.set(title=title, xlabel="turn k", ylabel="multi@k, % solved")
    right.set(title="correction rate", xlabel="turn", ylabel="% of the wrong ones solved at this turn")
    last = len(next(iter(methods.values())).multi_at)
    _finish(left, range(1, last + 1))
    _finish(right, range(2, last + 1))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def draw_axis(axis: str, points: Sequence[SweepPoint]) -> "Figure":
    """Figure 4: gamma by solved rate, every other setting by cumulative accuracy, turn by turn; a panel a dataset."""
    names = list(points[0].measures)
    figure, panels = _begin(len(names))
    for panel, name in zip(panels, names, strict=True):
        for point in points:
            one, label = point.measures[name], f"{point.value}{' (own)' if point.own else ''}"
            if axis == "gamma":
                turns = range(1, len(one.solved_rate_at) + 1)
                panel.plot(turns, [100 * rate for rate in one.solved_rate_at], marker="o", markersize=3, label=label)
            else:
                _draw_curve(panel, range(1, len(one.multi_at) + 1), one.multi_at, one.interval, label)
        said = "solved by turn / solved at all, %" if axis == "gamma" else "multi@k, % solved"
        panel.set(title=name, xlabel="turn k", ylabel=said)
        _finish(panel, range(1, len(points[0].measures[name].multi_at) + 1))
    figure.legend(*panels[0].get_legend_handles_labels(), title=axis, loc="outside lower center", ncols=4)
    return figure


def draw_steps(points: Sequence[SweepPoint]) -> "Figure":
    """Figures 7 to 9 at the method's own gamma, beta and K: accuracy over optimiser steps; a panel a dataset."""
    names = list(points[0].measures)
    figure, panels = _begin(len(names))
    steps = [float(point.value) for point in points]
    for panel, name in zip(panels, names, strict=True):
        for turn in dict.fromkeys([0, len(points[0].measures[name].multi_at) - 1]):
            mine = [point.measures[name] for point in points]
            _draw_curve(
                panel, steps, [one.multi_at[turn] for one in mine], [one.interval[turn] for one in mine],
                f"multi@{turn + 1}",
            )  # fmt: skip
        panel.set(title=name, xlabel="optimiser steps, each number a training of its own", ylabel="% solved")
        panel.set_xticks(steps)
        panel.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_groups(rows: Sequence[Concentration]) -> "Figure":
    """Table 8 as bars, and effective sample size against beta for each K."""
    figure, (left, right) = _begin(2)
    by_size = {row.k: row for row in rows}
    bottom = [0.0] * len(by_size)
    for name in ("all_correct", "mixed", "all_wrong"):
        shares = [100 * getattr(row.composition, name) / max(row.composition.complete, 1) for row in by_size.values()]
        left.bar([str(size) for size in by_size], shares, bottom=bottom, label=name.replace("_", " "))
        bottom = [below + share for below, share in zip(bottom, shares, strict=True)]
    left.set(title="groups by outcome", xlabel="K", ylabel="% of groups")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize="small")
    for size in by_size:
        mine = [row for row in rows if row.k == size]
        right.plot([row.beta for row in mine], [row.effective_share for row in mine], marker="o", label=f"K = {size}")
    right.set(title="effective sample size / K", xlabel="beta", ylabel="share", xscale="log", ylim=(0, 1))
    right.minorticks_off()
    betas = sorted({row.beta for row in rows})
    right.set_xticks(betas, [f"{beta:g}" for beta in betas])
    right.grid(alpha=0.3)
    right.legend(fontsize="small", loc="upper left")
    return figure


def draw_times(times: Sequence[MedianTime], hardware: str) -> "Figure":
    """Figure 6's axes on this hardware: seconds of rollouts and training by turn budget."""
    methods = list(dict.fromkeys(one.method for one in times))
    figure, panels = _begin(len(methods))
    for panel, method in zip(panels, methods, strict=True):
        mine = sorted((one for one in times if one.method == method), key=lambda one: one.max_turns)
        budgets = [f"{one.max_turns}\n{_name_seeds(one)}" for one in mine]
        panel.bar(budgets, [one.rollout_s for one in mine], label="rollouts")
        panel.bar(budgets, [one.train_s for one in mine], bottom=[one.rollout_s for one in mine], label="training")
        panel.set(title=f"{method}\n{_name_skipping(mine)}", xlabel="turn budget", ylabel="seconds")
    highest = max(one.rollout_s + one.train_s for one in times)
    for panel in panels:
        panel.set_ylim(0, 1.05 * highest)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    figure.suptitle(f"wall time, stops included; medians over seeds\non {hardware}", fontsize="medium")
    return figure


def _name_seeds(one: MedianTime) -> str:
    return f"seed {one.seeds[0]}" if len(one.seeds) == 1 else f"{len(one.seeds)} seeds"


def _name_skipping(mine: Sequence[MedianTime]) -> str:
    shares = [100 * one.skipped_token_share for one in mine]
    if max(shares) == 0:
        return "skips nothing"
    said = " to ".join(dict.fromkeys(f"{share:.0f}" for share in (min(shares), max(shares))))
    return f"skips {said} % of the tokens (epsilon {mine[0].epsilon:g})"


def _begin(panels: int) -> "tuple[Figure, list[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(panels, _COLUMNS)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(5.2 * columns, 4.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(panels)]


def _draw_curve(
    panel: "Axes", x: Sequence[float], shares: Sequence[float], intervals: Sequence[Sequence[float]], label: str
) -> None:
    """Shares with a band for their intervals."""
    line = panel.plot(x, [100 * share for share in shares], marker="o", markersize=3, label=label)[0]
    low, high = ([100 * bound for bound in bounds] for bounds in zip(*intervals, strict=True))
    panel.fill_between(x, low, high, alpha=0.08, color=line.get_color(), linewidth=0)


def _finish(panel: "Axes", turns: range) -> None:
    panel.set_xticks(list(turns))
    panel.grid(alpha=0.3)


def _slug(name: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in name)
