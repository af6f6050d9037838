"""What a study has found: measures of every method with intervals, paired differences, the sweep, the times.

A function of the ledger's records. What is not measured yet is left out and named, so that a study can be looked at
while it runs.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cli.study.concentration import Concentration, concentrate
from cli.study.ledger import Ledger, TaskRecord
from cli.study.measures import DatasetResults, Measures, Policy, compare, find_counted, measure
from cli.study.plan import Run, Task, plan_runs
from cli.study.statistics import Estimate
from cli.study.study_file import DRIFT, SFT_5TURN, Study, Value
from services.rollout.outcomes import Outcomes
from shared.returns import ReturnSpec
from shared.schema import Schema


class SweepPoint(Schema):
    """The swept method under one value of one setting."""

    axis: str
    value: Value
    own: bool
    """Whether it is the method's own value."""
    measures: dict[str, Measures]
    """By dataset."""


class RunTime(Schema):
    """Seconds of one policy's way from rollouts to evaluation; what several policies share counts for each."""

    method: str
    seed: int | None
    axis: str | None
    value: Value | None
    max_turns: int
    rollout_s: float
    train_s: float
    evaluate_s: float | None
    generated_tokens: int
    skipped_mass: float
    effective_sample_size: float | None


class Results(Schema):
    """`results.json`."""

    study: str
    model: str
    max_turns: int
    dataset: str
    """Which of `datasets` the two fields below are of: the first that the study evaluates on."""
    methods: dict[str, Measures]
    drift_minus_sft5turn: Estimate | None
    """multi@max_turns, paired by problem and seed."""
    datasets: dict[str, DatasetResults]
    average: dict[str, float]
    """Mean of multi@max_turns over the datasets, as in the paper's table 1."""
    sweep: list[SweepPoint]
    concentration: list[Concentration]
    times: list[RunTime]
    pending: list[str]
    """What is not measured yet."""
    environment: dict[str, str]
    """Of the machine that ran the study."""


def collect(study: Study, ledger: Ledger) -> Results:
    """The results so far."""
    runs = plan_runs(study)
    done = [run for run in runs if all(ledger.has(task.key) for task in run.tasks())]
    names = [dataset.name for dataset in study.base.evaluate]
    main = [run for run in done if run.axis is None]
    datasets = {
        name: compare([_read(ledger, run, place) for run in main], study.base.protocol.max_turns)
        for place, name in enumerate(names)
        if main
    }
    first = datasets.get(names[0])
    return Results(
        study=study.name,
        model=study.model,
        max_turns=study.base.protocol.max_turns,
        dataset=names[0],
        methods=first.methods if first else {},
        drift_minus_sft5turn=_find_difference(first) if first else None,
        datasets=datasets,
        average={
            method: float(np.mean([results.methods[method].multi_at[-1] for results in datasets.values()]))
            for method in (first.methods if first else {})
        },
        sweep=_sweep(study, ledger, [run for run in done if run.axis not in (None, "max_turns")], names),
        concentration=_concentrate(study, ledger, main),
        times=[_time(study, ledger, run) for run in done],
        pending=[_name(run) for run in runs if run not in done],
        environment=ledger.environment,
    )


def _name(run: Run) -> str:
    axis = f"{run.axis} {run.value}" if run.axis else ""
    return " ".join(part for part in (run.method, f"seed {run.seed}" if run.seed is not None else "", axis) if part)


def _read(ledger: Ledger, run: Run, place: int) -> Policy:
    assert run.evaluation
    return Policy(run.method, run.seed, Outcomes.from_columns(_record(ledger, run.evaluation).outcomes[place]))


def _record(ledger: Ledger, task: Task) -> TaskRecord:
    record = ledger.read(task.key)
    assert record is not None, "only runs whose tasks are done are looked at"
    return record


def _find_difference(results: DatasetResults) -> Estimate | None:
    found = [one for one in results.differences if (one.method, one.other) == (DRIFT, SFT_5TURN)]
    return found[0].multi_at[-1] if found else None


def _sweep(study: Study, ledger: Ledger, runs: Sequence[Run], names: Sequence[str]) -> list[SweepPoint]:
    points: dict[tuple[str, Value], list[Run]] = {}
    for run in runs:
        assert run.axis and run.value is not None
        points.setdefault((run.axis, run.value), []).append(run)
    own = {run.evaluation.key for run in plan_runs(study) if run.axis is None and run.evaluation}
    return [
        SweepPoint(
            axis=axis,
            value=value,
            own=all(run.evaluation is not None and run.evaluation.key in own for run in members),
            measures={
                name: measure(policies, find_counted(policies), study.base.protocol.max_turns)
                for place, name in enumerate(names)
                for policies in [[_read(ledger, run, place) for run in members]]
            },
        )
        for (axis, value), members in points.items()
    ]


def _concentrate(study: Study, ledger: Ledger, runs: Sequence[Run]) -> list[Concentration]:
    """Over the base's rollouts of all seeds."""
    rollouts = {run.rollouts[0].key: run.rollouts[0] for run in runs if run.method == DRIFT and run.rollouts}
    recorded = [_record(ledger, task) for task in rollouts.values()]
    betas = [float(beta) for beta in study.sweep.axes.get("beta", [])] if study.sweep else []
    returns = study.spec(DRIFT, study.seeds[0]).returns if DRIFT in study.methods else ReturnSpec()
    return concentrate(
        [Outcomes.from_columns(record.outcomes[0]) for record in recorded], returns, sorted({*betas, returns.beta})
    )


def _time(study: Study, ledger: Ledger, run: Run) -> RunTime:
    rollouts, trainings, evaluations = (
        [_record(ledger, task) for task in tasks]
        for tasks in (run.rollouts, run.trainings, [run.evaluation] if run.evaluation else [])
    )
    last = trainings[-1].status.trainings[-1] if trainings else None
    max_turns = run.rollouts[0].spec.protocol.max_turns if run.rollouts else study.base.protocol.max_turns
    return RunTime(
        method=run.method,
        seed=run.seed,
        axis=run.axis,
        value=run.value,
        max_turns=max_turns,
        rollout_s=_seconds(rollouts, "rollout"),
        train_s=_seconds(trainings, "train"),
        evaluate_s=_seconds(evaluations, "evaluate") if evaluations else None,
        generated_tokens=sum(part.generated_tokens for one in rollouts for part in one.status.rollouts),
        skipped_mass=last.skipped_mass if last else 0.0,
        effective_sample_size=last.effective_sample_size if last else None,
    )


def _seconds(records: Sequence[TaskRecord], step: Literal["rollout", "train", "evaluate"]) -> float:
    return sum(timing.seconds for record in records for timing in record.status.timings if timing.step == step)
