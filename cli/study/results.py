"""What a study has found: measures of every method with intervals, paired differences, the sweep, the times.

A function of the ledger's records. What is not measured yet is left out and named, so that a study can be looked at
while it runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cli.study.concentration import Concentration, concentrate
from cli.study.ledger import Ledger, TaskRecord
from cli.study.plan import Run, Task, plan_runs
from cli.study.statistics import Estimate, Resampling, correction_rates, estimate_difference, estimate_multi_at
from cli.study.study_file import BASE, DRIFT, SFT_5TURN, Study
from services.rollout.outcomes import Outcomes
from shared.returns import ReturnSpec
from shared.schema import Schema


class Measures(Schema):
    """One method on one dataset, over its seeds."""

    seeds: list[int]
    """Empty for the base, which has none."""
    multi_at: list[float]
    interval: list[list[float]]
    """95 % bootstrap interval [low, high] of each multi@k, over problems and seeds."""
    multi_at_by_seed: list[list[float]]
    correction_rate: float
    """Share of the problems wrong at turn 1 that a later turn solves."""
    correction_rate_at: list[float]
    solved_rate_at: list[float]
    """By turn: solved by t / solved by the last turn."""
    unique_answers: float
    """Mean of U/A."""
    distinct_answers: float
    distinct_answers_wrong: float
    """Mean number of distinct answers, over all problems and over those never solved (paper table 6)."""


class Difference(Schema):
    """multi@k of one method less another's, paired by problem and seed."""

    method: str
    other: str
    multi_at: list[Estimate]


class DatasetResults(Schema):
    """Every method on one dataset."""

    problems: int
    left_out: int
    """Problems that could not be graded under some policy; they count for none."""
    methods: dict[str, Measures]
    differences: list[Difference]


class SweepPoint(Schema):
    """The swept method under one value of one setting."""

    axis: str
    value: float | int | str
    own: bool
    """Whether it is the method's own value."""
    measures: dict[str, Measures]
    """By dataset."""


class RunTime(Schema):
    """Seconds of one policy's way from rollouts to evaluation; what several policies share counts for each."""

    method: str
    seed: int | None
    axis: str | None
    value: float | int | str | None
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


@dataclass(frozen=True)
class _Policy:
    """One evaluated policy on one dataset, a row a problem."""

    run: Run
    outcomes: Outcomes


def collect(study: Study, ledger: Ledger) -> Results:
    """The results so far."""
    runs = plan_runs(study)
    done = [run for run in runs if all(ledger.has(task.key) for task in run.tasks())]
    names = [dataset.name for dataset in study.base.evaluate]
    main = [run for run in done if run.axis is None]
    datasets = {
        name: _compare(study, [_read(ledger, run, place) for run in main]) for place, name in enumerate(names) if main
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


def _read(ledger: Ledger, run: Run, place: int) -> _Policy:
    assert run.evaluation
    return _Policy(run, Outcomes.from_columns(_record(ledger, run.evaluation).outcomes[place]))


def _record(ledger: Ledger, task: Task) -> TaskRecord:
    record = ledger.read(task.key)
    assert record is not None, "only runs whose tasks are done are looked at"
    return record


def _compare(study: Study, policies: Sequence[_Policy]) -> DatasetResults:
    counted = np.logical_and.reduce([policy.outcomes.usable for policy in policies])
    turns = study.base.protocol.max_turns
    by_method: dict[str, list[_Policy]] = {}
    for policy in policies:
        by_method.setdefault(policy.run.method, []).append(policy)
    problems = int(counted.sum())
    methods = {method: _measure(mine, counted, turns) for method, mine in by_method.items()}
    differences = [
        _differ(one, other, by_method, counted, turns)
        for other in (BASE, SFT_5TURN)
        for one in by_method
        if other in by_method and one not in (other, BASE) and _shared_seeds(by_method[one], by_method[other])
    ]
    return DatasetResults(problems=problems, left_out=len(counted) - problems, methods=methods, differences=differences)


def _measure(policies: Sequence[_Policy], counted: npt.NDArray[np.bool_], turns: int) -> Measures:
    solved_at = _solved_at(policies, counted)
    resampling = Resampling.draw(*solved_at.shape)
    estimates = [estimate_multi_at(solved_at, k, resampling) for k in range(1, turns + 1)]
    answered, distinct = (
        np.array([getattr(policy.outcomes, name)[counted] for policy in policies]) for name in ("answered", "distinct")
    )
    wrong = solved_at == 0
    last = estimates[-1].mean
    return Measures(
        seeds=[policy.run.seed for policy in policies if policy.run.seed is not None],
        multi_at=[one.mean for one in estimates],
        interval=[[one.low, one.high] for one in estimates],
        multi_at_by_seed=[[float(((row >= 1) & (row <= k)).mean()) for k in range(1, turns + 1)] for row in solved_at],
        correction_rate=_ratio(last - estimates[0].mean, 1 - estimates[0].mean),
        correction_rate_at=correction_rates(solved_at, turns),
        solved_rate_at=[_ratio(one.mean, last) for one in estimates],
        unique_answers=_mean((distinct / np.maximum(answered, 1))[answered > 0]),
        distinct_answers=_mean(distinct),
        distinct_answers_wrong=_mean(distinct[wrong]),
    )


def _differ(
    one: str, other: str, by_method: dict[str, list[_Policy]], counted: npt.NDArray[np.bool_], turns: int
) -> Difference:
    mine, theirs = by_method[one], by_method[other]
    shared = _shared_seeds(mine, theirs)
    matrices = [
        _solved_at([policy for policy in policies if policy.run.seed in (None, *shared)], counted)
        for policies in (mine, theirs)
    ]
    resampling = Resampling.draw(max(map(len, matrices)), int(counted.sum()))
    estimates = [estimate_difference(matrices[0], matrices[1], k, resampling) for k in range(1, turns + 1)]
    return Difference(method=one, other=other, multi_at=estimates)


def _shared_seeds(mine: Sequence[_Policy], theirs: Sequence[_Policy]) -> list[int]:
    """Seeds that both have; the base goes with all of the other's."""
    seeds = [{policy.run.seed for policy in policies} - {None} for policies in (mine, theirs)]
    shared = seeds[0] & seeds[1] if all(seeds) else seeds[0] | seeds[1]
    return sorted(seed for seed in shared if seed is not None)


def _solved_at(policies: Sequence[_Policy], counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int16]:
    """The turn that solved each problem, 0 where none did, shape [policies, problems]."""
    return np.array(
        [np.where(policy.outcomes.success, policy.outcomes.turns, 0)[counted] for policy in policies], np.int16
    )


def _find_difference(results: DatasetResults) -> Estimate | None:
    found = [one for one in results.differences if (one.method, one.other) == (DRIFT, SFT_5TURN)]
    return found[0].multi_at[-1] if found else None


def _sweep(study: Study, ledger: Ledger, runs: Sequence[Run], names: Sequence[str]) -> list[SweepPoint]:
    assert study.sweep or not runs
    points: dict[tuple[str, float | int | str], list[Run]] = {}
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
                name: _measure(
                    policies := [_read(ledger, run, place) for run in members],
                    np.logical_and.reduce([policy.outcomes.usable for policy in policies]),
                    study.base.protocol.max_turns,
                )
                for place, name in enumerate(names)
            },
        )
        for (axis, value), members in points.items()
    ]


def _concentrate(study: Study, ledger: Ledger, runs: Sequence[Run]) -> list[Concentration]:
    """Over the base's rollouts of all seeds."""
    rollouts = {run.rollouts[0].key: run.rollouts[0] for run in runs if run.method == DRIFT and run.rollouts}
    recorded = [_record(ledger, task) for task in rollouts.values()]
    betas = study.sweep.beta if study.sweep else []
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


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _mean(values: npt.NDArray[np.floating] | npt.NDArray[np.integer]) -> float:
    return float(values.mean()) if values.size else 0.0
