"""What the dashboard draws, as data: the page's script only puts it on a canvas and in a table."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, pairwise
from typing import Literal

from services.rollout.evaluation import solved_by
from services.rollout.history import Sample
from shared.grading import Verdict
from shared.job import JobSpec
from shared.measures import Evaluation
from shared.schema import Schema
from shared.status import JobStatus

Value = Callable[[Sample], float | None]


class Series(Schema):
    """One line or one set of bars, as long as the chart's x; `low` and `high` bound its interval."""

    label: str
    values: list[float | None]
    low: list[float] | None = None
    high: list[float] | None = None


class Chart(Schema):
    """Series over a common x."""

    key: str
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


def draw_job(spec: JobSpec, status: JobStatus, history: Sequence[Sample]) -> list[Chart]:
    """Everything that a job's page draws, as far as there is data for it."""
    evaluations = draw_evaluations([(evaluation.policy, evaluation) for evaluation in status.evaluations])
    return [*evaluations, *_draw_rollouts(spec, history), *_draw_trainings(status)]


def draw_evaluations(named: Iterable[tuple[str, Evaluation]]) -> list[Chart]:
    """multi@k with its 95 % interval, and the correction rate; a chart of each for every dataset."""
    charts: list[Chart] = []
    in_order = sorted(named, key=lambda pair: pair[1].dataset)
    for place, (dataset, group) in enumerate(groupby(in_order, key=lambda pair: pair[1].dataset)):
        members = list(group)
        turns = [float(turn) for turn in range(1, max(len(each.multi_at) for _, each in members) + 1)]
        multi = [
            Series(
                label=label,
                values=_pad(each.multi_at, len(turns)),
                low=[bounds[0] for bounds in each.interval],
                high=[bounds[1] for bounds in each.interval],
            )
            for label, each in members
        ]
        corrections = [
            Series(label=label, values=_pad([None, *each.correction_rate_at[1:]], len(turns)))
            for label, each in members
        ]
        charts.append(
            Chart(key=f"multi-{place}", title=f"Solved within k turns: {dataset}", x=turns, x_label="turn k",
                  percent=True, series=multi)
        )  # fmt: skip
        if len(turns) > 1:
            charts.append(
                Chart(key=f"correction-{place}", title=f"Correction rate by turn: {dataset}", x=turns,
                      x_label="turn", percent=True, series=corrections)
            )  # fmt: skip
    return charts


def _draw_rollouts(spec: JobSpec, history: Sequence[Sample]) -> list[Chart]:
    """How the shares and rates of the rollouts developed in time."""
    samples = [sample for sample in history if sample.part.startswith("rollout-")]
    turns = spec.protocol.max_turns
    middle = sorted({1, (turns + 1) // 2, turns})
    solved: dict[str, Value] = {f"by turn {turn}": _solved(turn, turns) for turn in middle}
    verdicts: dict[str, Value] = {str(verdict): _share(f"verdict:{verdict}", "turns") for verdict in Verdict}
    answers: dict[str, Value] = {
        "all trajectories": _share("distinct_share", "answered"),
    }
    charts = [
        _over_time("solved", "Solved, in rollouts", samples, solved, percent=True),
        _over_time("verdicts", "Verdicts, share of turns", samples, verdicts, percent=True),
        _over_time("unique", "Unique answers (U/A)", samples, answers),
        _rates("rates", "Tokens a second", history, "tokens"),
        _over_time("load", "Requests in flight", history, {"requests": lambda sample: float(sample.in_flight)}),
    ]
    return [chart for chart in charts if chart.x]


def _draw_trainings(status: JobStatus) -> list[Chart]:
    """Loss by step, and what the groups of each stage were like."""
    charts: list[Chart] = []
    trained = [training for training in status.trainings if training.losses]
    if trained:
        steps = max(len(training.losses) for training in trained)
        charts.append(
            Chart(
                key="loss",
                title="Weighted loss",
                x=[float(step) for step in range(1, steps + 1)],
                x_label="step",
                series=[
                    Series(label=f"stage {training.stage}", values=_pad(training.losses, steps)) for training in trained
                ],
            )
        )
    composed = [(training.stage, training.composition) for training in status.trainings if training.composition]
    if composed:
        names = ("all_correct", "mixed", "all_wrong", "spoiled")
        charts.append(
            Chart(
                key="composition",
                title="Groups by outcome",
                kind="bars",
                x=[float(place) for place in range(len(names))],
                x_label="outcome",
                ticks=["all right", "mixed", "all wrong", "spoiled"],
                series=[
                    Series(label=f"stage {stage}", values=[float(getattr(groups, name)) for name in names])
                    for stage, groups in composed
                ],
            )
        )
    return charts


def _over_time(
    key: str, title: str, samples: Sequence[Sample], lines: dict[str, Value], *, percent: bool = False
) -> Chart:
    series = [Series(label=label, values=[value(sample) for sample in samples]) for label, value in lines.items()]
    return Chart(
        key=key,
        title=title,
        x=[sample.time for sample in samples],
        x_label="time",
        time=True,
        percent=percent,
        series=[each for each in series if any(each.values)],
    )


def _rates(key: str, title: str, history: Sequence[Sample], name: str) -> Chart:
    """Differences of a sum over the time between samples of the same part."""
    pairs = [(before, after) for before, after in pairwise(history) if before.part == after.part]
    grown = [
        (after.sums.get(name, 0) - before.sums.get(name, 0)) / max(after.time - before.time, 1e-3)
        for before, after in pairs
    ]
    series = [Series(label="sampled", values=list(grown))] if grown else []
    return Chart(key=key, title=title, x=[after.time for _, after in pairs], x_label="time", time=True, series=series)


def _share(part: str, whole: str) -> Value:
    def share(sample: Sample) -> float | None:
        total = sample.sums.get(whole, 0)
        return sample.sums.get(part, 0) / total if total else None

    return share


def _solved(turn: int, turns: int) -> Value:
    def share(sample: Sample) -> float | None:
        total = sample.sums.get("usable", 0)
        return solved_by(sample.sums, turns)[turn - 1] / total if total else None

    return share


def _pad(values: Sequence[float | None], length: int) -> list[float | None]:
    return [*values, *[None] * (length - len(values))]
