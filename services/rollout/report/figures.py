"""The figures of a report: charts of its facts and nothing else, each with the parts that its numbers come from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.rollout.chart import (
    Chart,
    Series,
    draw_composition,
    draw_evaluation,
    draw_histogram,
    draw_losses,
    draw_solved,
)
from services.rollout.report.facts import JobReport, RolloutReport


@dataclass(frozen=True)
class Figure:
    """A chart, and where its numbers come from."""

    chart: Chart
    sources: list[str]
    """Parts of the job, e.g. `evaluate-1-0`."""

    @property
    def file(self) -> str:
        return f"figures/{self.chart.key}.svg"


def draw_figures(report: JobReport) -> list[Figure]:
    """Every figure that there are numbers for."""
    return [*_draw_evaluations(report), *_draw_rollouts(report.rollouts), *_draw_trainings(report)]


def _draw_evaluations(report: JobReport) -> Iterator[Figure]:
    for place, parts in enumerate(report.by_dataset()):
        for chart in draw_evaluation(place, [(part.measures.policy, part.measures) for part in parts]):
            yield Figure(chart, [part.part for part in parts])


def _draw_rollouts(rollouts: Sequence[RolloutReport]) -> Iterator[Figure]:
    if not rollouts:
        return
    parts = [one.figures.part for one in rollouts]
    measured = [(one.figures.measures.policy, one.figures.measures) for one in rollouts]
    yield Figure(draw_solved("rollouts", "Solved within k turns, in rollouts", measured), parts)
    yield Figure(draw_composition([(one.figures.measures.policy, one.composition) for one in rollouts]), parts)
    for one in rollouts:
        part, policy = one.figures.part, one.figures.measures.policy
        yield Figure(
            draw_histogram(f"weights-{part}", f"Weights of trajectories: {policy}", "weight", one.weights), [part]
        )
        if one.composition_at:
            yield Figure(_draw_composition_at(one), [part])
        if one.sweeps:
            yield Figure(_draw_sweeps(one), [part])


def _draw_composition_at(rollout: RolloutReport) -> Chart:
    sizes = rollout.composition_at
    shares = {
        "all right": [each.all_correct for each in sizes],
        "mixed": [each.mixed for each in sizes],
        "all wrong": [each.all_wrong for each in sizes],
    }
    return Chart(
        key=f"composition-{rollout.figures.part}",
        title=f"Groups by outcome for K trajectories: {rollout.figures.measures.policy}",
        x=[float(place) for place in range(len(sizes))],
        x_label="K",
        ticks=[str(each.trajectories) for each in sizes],
        percent=True,
        series=[Series(label=label, values=list(values)) for label, values in shares.items()],
    )


def _draw_sweeps(rollout: RolloutReport) -> Chart:
    betas = rollout.sweeps[0].betas
    return Chart(
        key=f"sweep-{rollout.figures.part}",
        title=f"Mean effective sample size: {rollout.figures.measures.policy}",
        x=[float(place) for place in range(len(betas))],
        x_label="beta",
        ticks=[f"{beta:g}" for beta in betas],
        series=[
            Series(label=f"gamma {sweep.gamma:g}", values=list(sweep.effective_sample_size)) for sweep in rollout.sweeps
        ],
    )


def _draw_trainings(report: JobReport) -> Iterator[Figure]:
    if trained := [training for training in report.trainings if training.losses]:
        yield Figure(draw_losses(trained), [])
