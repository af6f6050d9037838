"""What the dashboard draws, as data: the page's script only puts it on a canvas and in a table."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from services.rollout.chart import Chart, Series, draw_composition, draw_evaluation, draw_losses
from services.rollout.evaluation import solved_by
from services.rollout.history import Sample
from shared.grading import Verdict
from shared.job import JobSpec
from shared.status import JobStatus

Value = Callable[[Sample], float | None]


def draw_job(spec: JobSpec, status: JobStatus, history: Sequence[Sample]) -> list[Chart]:
    """Everything that a job's page draws, as far as there is data for it."""
    evaluations = [
        chart
        for place, members in enumerate(status.evaluations_by_set())
        for chart in draw_evaluation(place, [(each.policy, each) for each in members])
    ]
    return [*evaluations, *_draw_rollouts(spec, history), *_draw_trainings(status)]


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
    return [chart for chart in charts if len(chart.x) > 1 and chart.series]


def _draw_trainings(status: JobStatus) -> list[Chart]:
    """What the groups of each stage were like, and the loss by step."""
    composed = [(rollout.policy, rollout.composition) for rollout in status.rollouts if rollout.composition.complete]
    trained = [training for training in status.trainings if training.losses]
    return ([draw_composition(composed)] if composed else []) + ([draw_losses(trained)] if trained else [])


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
