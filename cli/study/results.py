"""What a study has found: measures of every method with intervals, paired differences, the sweep, the times.

A function of the ledger's records. What is not measured yet is left out and named, so that a study can be looked at
while it runs.
"""

from collections.abc import Sequence

from cli.study.concentration import EPSILON, Concentration, concentrate
from cli.study.ledger import Ledger, TaskRecord
from cli.study.measures import Average, DatasetResults, Measures, Policy, average, compare
from cli.study.plan import Run, Task, plan_runs
from cli.study.statistics import Estimate
from cli.study.study_file import DRIFT, SFT_5TURN, Study
from cli.study.sweep import SweepPoint, compare_values, name_value
from cli.study.times import RunTime, time_run
from services.rollout.outcomes import Outcomes
from shared.schema import Schema


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
    average: Average | None
    sweep: list[SweepPoint]
    concentration: list[Concentration]
    times: list[RunTime]
    """Of every run; a value of the sweep or timing that is the method's own is told once, as the method's."""
    pending: list[str]
    """What is not measured yet."""
    environment: dict[str, str]
    """Of the machine that ran the study."""


def collect(study: Study, ledger: Ledger) -> Results:
    """The results so far."""
    runs = plan_runs(study)
    done = [run for run in runs if all(ledger.has(task.key) for task in run.tasks())]
    main = [run for run in done if run.axis is None]
    names = [dataset.name for dataset in study.base.evaluate]
    turns = study.base.protocol.max_turns
    policies = {name: [_read(ledger, run, place, run.method) for run in main] for place, name in enumerate(names)}
    datasets = {name: compare(of_set, turns) for name, of_set in policies.items() if main}
    first = datasets.get(names[0])
    return Results(
        study=study.name,
        model=study.model,
        max_turns=turns,
        dataset=names[0],
        methods=first.methods if first else {},
        drift_minus_sft5turn=_find_difference(first) if first else None,
        datasets=datasets,
        average=average(list(policies.values()), turns) if main else None,
        sweep=_sweep(study, ledger, done, names),
        concentration=_concentrate(study, ledger, done),
        times=_time(study, ledger, runs, done),
        pending=[_name(run) for run in runs if run not in done],
        environment=ledger.environment,
    )


def _name(run: Run) -> str:
    axis = f"{run.axis} {run.value}" if run.axis else ""
    return " ".join(part for part in (run.method, f"seed {run.seed}" if run.seed is not None else "", axis) if part)


def _read(ledger: Ledger, run: Run, place: int, name: str) -> Policy:
    assert run.evaluation
    return Policy(name, run.seed, Outcomes.from_columns(_record(ledger, run.evaluation).outcomes[place]))


def _record(ledger: Ledger, task: Task) -> TaskRecord:
    record = ledger.read(task.key)
    assert record is not None, "only runs whose tasks are done are looked at"
    return record


def _find_difference(results: DatasetResults) -> Estimate | None:
    found = [one for one in results.differences if (one.method, one.other) == (DRIFT, SFT_5TURN)]
    return found[0].multi_at[-1] if found else None


def _sweep(study: Study, ledger: Ledger, done: Sequence[Run], names: Sequence[str]) -> list[SweepPoint]:
    points: list[SweepPoint] = []
    for axis in study.sweep.axes if study.sweep else []:
        runs = [run for run in done if run.axis == axis]
        policies = {
            name: [_read(ledger, run, place, name_value(run)) for run in runs] for place, name in enumerate(names)
        }
        swept = compare_values(study, axis, runs, policies) if runs else []
        points += swept if any(not point.own for point in swept) else []
    return points


def _concentrate(study: Study, ledger: Ledger, done: Sequence[Run]) -> list[Concentration]:
    """Over the base's rollouts of all seeds; the sweep's give the K that these do not have."""
    if DRIFT not in study.methods:
        return []
    spec = study.spec(DRIFT, study.seeds[0])
    assert spec.train
    looked_at = [run.rollouts[0] for run in done if run.method == DRIFT and run.axis in (None, "trajectories")]
    recorded = [_record(ledger, task) for task in {task.key: task for task in looked_at}.values()]
    betas = [float(beta) for beta in study.sweep.axes.get("beta", [])] if study.sweep else []
    return concentrate(
        [Outcomes.from_columns(record.outcomes[0]) for record in recorded],
        spec.returns,
        sorted({*betas, spec.returns.beta}),
        spec.train.epsilon or EPSILON,
    )


def _time(study: Study, ledger: Ledger, runs: Sequence[Run], done: Sequence[Run]) -> list[RunTime]:
    own = {(run.method, task.key) for run in runs if run.axis is None for task in run.tasks()}
    return [
        time_run(study, run, lambda task: _record(ledger, task))
        for run in done
        if run.axis is None or any((run.method, task.key) not in own for task in run.tasks())
    ]
