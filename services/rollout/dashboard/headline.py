"""The few figures that a job's page begins with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.rollout.report.markdown import percent
from shared.measures import Evaluation
from shared.status import JobStatus
from shared.trajectory import part_name


@dataclass(frozen=True)
class Tile:
    """One figure."""

    label: str
    value: str
    note: str
    good: bool = False
    """Whether it has got better."""


@dataclass(frozen=True)
class Row:
    """One evaluation, and the part of the job that its numbers come from."""

    evaluation: Evaluation
    part: str


def choose_tiles(status: JobStatus) -> list[Tile]:
    """What there is: the gain on the first evaluation set, then rollouts and training."""
    sets = status.evaluations_by_set()
    return [*_gain(sets[0] if sets else []), *_rollouts(status), *_training(status)]


def place_evaluations(status: JobStatus) -> list[Row]:
    """The evaluations with their parts: those of a stage are in the order of the job's sets."""
    rows: list[Row] = []
    seen: dict[int, int] = {}
    for each in status.evaluations:
        place = seen.setdefault(each.stage, 0)
        seen[each.stage] += 1
        rows.append(Row(each, part_name("evaluate", each.stage, place)))
    return rows


def _gain(evaluations: Sequence[Evaluation]) -> Iterator[Tile]:
    if not evaluations:
        return
    first, last = evaluations[0], evaluations[-1]
    low, high = last.interval[-1]
    interval = f"{last.policy}, 95 % [{100 * low:.1f}, {100 * high:.1f}]"
    name = f"multi@{len(last.multi_at)}"
    if len(evaluations) == 1:
        yield Tile(name, percent(last.multi_at[-1]), interval)
        yield Tile("correction rate", percent(last.correction_rate), last.policy)
        return
    for label, before, after, note in (
        (name, first.multi_at[-1], last.multi_at[-1], interval),
        ("correction rate", first.correction_rate, last.correction_rate, last.policy),
    ):
        change = f"from {percent(before)}, {100 * (after - before):+.1f} points; {note}"
        yield Tile(label, percent(after), change, good=after > before)


def _rollouts(status: JobStatus) -> Iterator[Tile]:
    if not status.rollouts:
        return
    trajectories = sum(each.trajectories for each in status.rollouts)
    seconds = sum(each.seconds for each in status.rollouts)
    tokens = sum(each.generated_tokens for each in status.rollouts)
    lost = sum(each.ungraded + each.failed for each in status.rollouts)
    yield Tile("trajectories", f"{trajectories:,}", f"{lost} ungraded or failed")
    if seconds:
        yield Tile("tokens a second", f"{tokens / seconds:,.0f}", f"{tokens:,} in the rollouts")


def _training(status: JobStatus) -> Iterator[Tile]:
    if not status.trainings or status.trainings[-1].loss is None:
        return
    last = status.trainings[-1]
    yield Tile("weighted loss", f"{last.loss:.4f}", f"step {last.step} of {last.steps}")
    if last.effective_sample_size:
        share = f"{last.skipped} of {last.trajectories} skipped" if last.trajectories else ""
        yield Tile("mean ESS of a group", f"{last.effective_sample_size:.2f}", share)
