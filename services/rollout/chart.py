"""A chart as data: what the dashboard's script and the report's figures draw alike."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal

from services.rollout.weights import Histogram
from shared.measures import Composition, Evaluation
from shared.schema import Schema
from shared.training import TrainingStatus


class Series(Schema):
    """One line or one set of bars, as long as the chart's x; `low` and `high` bound its interval."""

    label: str
    values: list[float | None]
    low: list[float] | None = None
    high: list[float] | None = None


class Chart(Schema):
    """Series over a common x."""

    key: str
    """Unique among the charts that are shown together, and fit for a file's name."""
    title: str
    kind: Literal["line", "bars"] = "line"
    x: list[float]
    x_label: str
    ticks: list[str] | None = None
    """Names of the x values, where they are categories."""
    percent: bool = False
    """Whether the values are shares of 1."""
    time: bool = False
    """Whether x is Unix time, seconds."""
    series: list[Series]


def draw_evaluations(named: Iterable[tuple[str, Evaluation]]) -> list[Chart]:
    """Solved within k turns, and the correction rate by turn; a chart of each for every dataset."""
    in_order = sorted(named, key=lambda pair: pair[1].dataset)
    by_dataset = groupby(in_order, key=lambda pair: pair[1].dataset)
    return [chart for place, (_, group) in enumerate(by_dataset) for chart in draw_evaluation(place, list(group))]


def draw_evaluation(place: int, members: Sequence[tuple[str, Evaluation]]) -> list[Chart]:
    """The charts of the dataset in this place; `members` are labelled."""
    dataset = members[0][1].dataset
    solved = draw_solved(f"multi-{place}", f"Solved within k turns: {dataset}", members)
    if len(solved.x) == 1:
        return [solved]
    return [solved, _draw_corrections(f"correction-{place}", f"Correction rate by turn: {dataset}", members)]


def draw_solved(key: str, title: str, members: Sequence[tuple[str, Evaluation]]) -> Chart:
    """multi@k (paper 5.1) of each policy, with its 95 % interval."""
    turns = _turns(members)
    series = [
        Series(
            label=label,
            values=pad(each.multi_at, len(turns)),
            low=[bounds[0] for bounds in each.interval],
            high=[bounds[1] for bounds in each.interval],
        )
        for label, each in members
    ]
    return Chart(key=key, title=title, x=turns, x_label="turn k", percent=True, series=series)


def draw_composition(stages: Sequence[tuple[str, Composition]]) -> Chart:
    """Groups by outcome (paper D.9), a set of bars a stage."""
    names = ("all_correct", "mixed", "all_wrong", "spoiled")
    return Chart(
        key="composition",
        title="Groups by outcome",
        kind="bars",
        x=[float(place) for place in range(len(names))],
        x_label="outcome",
        ticks=["all right", "mixed", "all wrong", "spoiled"],
        series=[
            Series(label=label, values=[float(getattr(groups, name)) for name in names]) for label, groups in stages
        ],
    )


def draw_losses(trainings: Sequence[TrainingStatus]) -> Chart:
    """Weighted loss by step (paper eqs. 14, 15), a line a stage."""
    steps = max(len(training.losses) for training in trainings)
    return Chart(
        key="loss",
        title="Weighted loss",
        x=[float(step) for step in range(1, steps + 1)],
        x_label="step",
        series=[Series(label=f"stage {training.stage}", values=pad(training.losses, steps)) for training in trainings],
    )


def draw_histogram(key: str, title: str, x_label: str, histogram: Histogram) -> Chart:
    """Counts of trajectories, each bin named by its lower edge."""
    return Chart(
        key=key,
        title=title,
        kind="bars",
        x=[float(place) for place in range(len(histogram.counts))],
        x_label=f"{x_label}, from",
        ticks=[f"{edge:.2g}" for edge in histogram.edges[:-1]],
        series=[Series(label="trajectories", values=[float(count) for count in histogram.counts])],
    )


def _draw_corrections(key: str, title: str, members: Sequence[tuple[str, Evaluation]]) -> Chart:
    turns = _turns(members)
    series = [
        Series(label=label, values=pad([None, *each.correction_rate_at[1:]], len(turns))) for label, each in members
    ]
    return Chart(key=key, title=title, x=turns, x_label="turn", percent=True, series=series)


def _turns(members: Sequence[tuple[str, Evaluation]]) -> list[float]:
    return [float(turn) for turn in range(1, max(len(each.multi_at) for _, each in members) + 1)]


def pad(values: Sequence[float | None], length: int) -> list[float | None]:
    """The values, and nothing up to the length."""
    return [*values, *[None] * (length - len(values))]
