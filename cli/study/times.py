"""How long the policies took: each run, and medians over seeds, which a stop of one of three runs moves little."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from cli.study.ledger import TaskRecord
from cli.study.plan import Run, Task
from cli.study.study_file import Axis, Study, Value
from shared.schema import Schema


class RunTime(Schema):
    """Seconds of one policy's way from rollouts to evaluation; what several policies share counts for each.

    Wall time, and where a job was stopped, killed or waited, that time too.
    """

    method: str
    seed: int | None
    axis: Axis | Literal["max_turns"] | None
    value: Value | None
    max_turns: int
    rollout_s: float
    train_s: float
    evaluate_s: float | None
    generated_tokens: int
    epsilon: float | None
    """Of the training; None for a policy that nobody trains, as what follows is nothing."""
    skipped_mass: float
    skipped_token_share: float
    effective_sample_size: float | None


@dataclass(frozen=True)
class MedianTime:
    """Medians over the seeds of one method under one setting."""

    method: str
    axis: Axis | Literal["max_turns"] | None
    value: Value | None
    max_turns: int
    epsilon: float | None
    seeds: list[int]
    rollout_s: float
    train_s: float
    evaluate_s: float | None
    generated_tokens: float
    skipped_token_share: float


def time_run(study: Study, run: Run, read: Callable[[Task], TaskRecord]) -> RunTime:
    """Of a run whose tasks are all recorded."""
    rollouts, trainings, evaluations = (
        [read(task) for task in tasks]
        for tasks in (run.rollouts, run.trainings, [run.evaluation] if run.evaluation else [])
    )
    last = trainings[-1].status.trainings[-1] if trainings else None
    told = run.trainings[-1].spec.train if run.trainings else None
    return RunTime(
        method=run.method,
        seed=run.seed,
        axis=run.axis,
        value=run.value,
        max_turns=(run.rollouts[0].spec if run.rollouts else study.base).protocol.max_turns,
        rollout_s=_seconds(rollouts, "rollout"),
        train_s=_seconds(trainings, "train"),
        evaluate_s=_seconds(evaluations, "evaluate") if evaluations else None,
        generated_tokens=sum(part.generated_tokens for one in rollouts for part in one.status.rollouts),
        epsilon=told.epsilon if told else None,
        skipped_mass=last.skipped_mass if last else 0.0,
        skipped_token_share=last.skipped_token_share if last else 0.0,
        effective_sample_size=last.effective_sample_size if last else None,
    )


def take_medians(times: Sequence[RunTime]) -> list[MedianTime]:
    """Of every method with its own settings, and of each value of a setting; in the order of `times`."""
    groups: dict[tuple[str, str | None, Value | None, int], list[RunTime]] = {}
    for one in times:
        groups.setdefault((one.method, one.axis, one.value, one.max_turns), []).append(one)
    return [_take_median(members) for members in groups.values()]


def _take_median(members: Sequence[RunTime]) -> MedianTime:
    first = members[0]
    evaluations = [one.evaluate_s for one in members if one.evaluate_s is not None]
    return MedianTime(
        method=first.method,
        axis=first.axis,
        value=first.value,
        max_turns=first.max_turns,
        epsilon=first.epsilon,
        seeds=[one.seed for one in members if one.seed is not None],
        rollout_s=median(one.rollout_s for one in members),
        train_s=median(one.train_s for one in members),
        evaluate_s=median(evaluations) if evaluations else None,
        generated_tokens=median(one.generated_tokens for one in members),
        skipped_token_share=median(one.skipped_token_share for one in members),
    )


def _seconds(records: Sequence[TaskRecord], step: Literal["rollout", "train", "evaluate"]) -> float:
    return sum(timing.seconds for record in records for timing in record.status.timings if timing.step == step)
