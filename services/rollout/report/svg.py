"""A chart as a picture that needs nothing else: SVG in light and dark, its values readable under the pointer.

Pure: a chart in, text out. Labels come from users and models and are escaped by the template.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from services.rollout.chart import Chart, Series

WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 620, 64, 306
_COLOURS = 6
_MOST_DOTS = 24
"""A curve of more points shows none."""
_MOST_LABELS = 10
_TEMPLATE = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
).get_template("figure.svg")


@dataclass(frozen=True)
class _Scale:
    """From values to places on the picture."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first), 1)


def draw_svg(chart: Chart, sources: Sequence[str] = ()) -> str:
    """The picture; `sources` name where its numbers come from."""
    ticks = _choose_ticks(chart)
    y = _Scale(ticks[0], ticks[-1], _BOTTOM, _TOP)
    x = _scale_x(chart)
    shown = _percent if chart.percent else _plain
    said = [f"{each.label}: {', '.join(_say(shown, value) for value in each.values)}" for each in chart.series]
    return _TEMPLATE.render(
        chart=chart,
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=_RIGHT,
        bottom=_BOTTOM,
        description=". ".join([*said, f"From {', '.join(sources)}"] if sources else said),
        legend=_place_legend(chart.series),
        y_ticks=[{"at": y(value), "label": shown(value)} for value in ticks],
        x_ticks=_label_x(chart, x),
        bars=_draw_bars(chart, x, y, shown) if chart.kind == "bars" else [],
        bands=[] if chart.kind == "bars" else _draw_bands(chart, x, y),
        curves=[] if chart.kind == "bars" else _draw_curves(chart, x, y, shown),
    )


def _choose_ticks(chart: Chart) -> list[float]:
    """Round values around all that is drawn, from zero where nothing is below."""
    values = [value for each in chart.series for value in (*each.values, *(each.high or ())) if value is not None]
    low, high = min([0.0, *values]), max([0.0, *values])
    if high <= low:
        high = low + 1
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough - 1e-12)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _scale_x(chart: Chart) -> _Scale:
    low, high = min(chart.x, default=0.0), max(chart.x, default=1.0)
    margin = 0.5 if chart.kind == "bars" else 0.04 * (high - low) or 0.5
    return _Scale(low - margin, high + margin, _LEFT, _RIGHT)


def _label_x(chart: Chart, x: _Scale) -> list[dict[str, object]]:
    names = chart.ticks or [_plain(value) for value in chart.x]
    every = math.ceil(len(names) / _MOST_LABELS)
    return [
        {"at": x(value), "label": name}
        for place, (value, name) in enumerate(zip(chart.x, names, strict=True))
        if place % every == 0
    ]


def _place_legend(series: Sequence[Series]) -> list[dict[str, object]]:
    placed: list[dict[str, object]] = []
    at = _LEFT
    for number, each in enumerate(series):
        placed.append({"x": at, "label": each.label, "colour": number % _COLOURS})
        at += 36 + 7 * len(each.label)
    return placed


def _draw_bars(chart: Chart, x: _Scale, y: _Scale, shown: Callable[[float], str]) -> list[dict[str, object]]:
    width = 0.8 * (x(1) - x(0)) / len(chart.series)
    return [
        {
            "x": round(x(place) + (number - len(chart.series) / 2) * width, 1),
            "y": y(value),
            "width": round(width, 1),
            "height": round(y(0) - y(value), 1),
            "colour": number % _COLOURS,
            "label": f"{each.label}: {shown(value)}",
        }
        for number, each in enumerate(chart.series)
        for place, value in zip(chart.x, each.values, strict=True)
        if value
    ]


def _draw_bands(chart: Chart, x: _Scale, y: _Scale) -> list[dict[str, object]]:
    bands: list[dict[str, object]] = []
    for number, each in enumerate(chart.series):
        if each.low is not None and each.high is not None:
            there = [*zip(chart.x, each.low, strict=False)]
            back = [*zip(chart.x, each.high, strict=False)][::-1]
            bands.append(
                {"points": _join((x(at), y(value)) for at, value in there + back), "colour": number % _COLOURS}
            )
    return bands


def _draw_curves(chart: Chart, x: _Scale, y: _Scale, shown: Callable[[float], str]) -> list[dict[str, object]]:
    curves: list[dict[str, object]] = []
    for number, each in enumerate(chart.series):
        known = [(at, value) for at, value in zip(chart.x, each.values, strict=True) if value is not None]
        dots = [
            {"x": x(at), "y": y(value), "label": f"{each.label}: {shown(value)}"}
            for at, value in (known if len(known) <= _MOST_DOTS else [])
        ]
        points = _join((x(at), y(value)) for at, value in known)
        curves.append({"points": points, "dots": dots, "colour": number % _COLOURS})
    return curves


def _join(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _say(shown: Callable[[float], str], value: float | None) -> str:
    return "none" if value is None else shown(value)


def _percent(share: float) -> str:
    return f"{round(100 * share, 1):g} %"


def _plain(value: float) -> str:
    return f"{value:.4g}"
