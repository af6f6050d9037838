"""One method under other values of one setting at a time: measures of each value, and how far it is from the own one.

All values of a setting are measured on the same problems, and compared on the same problems and seeds. Pure.
"""

from collections.abc import Mapping, Sequence

from cli.study.measures import Difference, Measures, Policy, compare
from cli.study.plan import Run
from cli.study.study_file import PLACES, Axis, Study, Value
from shared.schema import Schema


class SweepPoint(Schema):
    """The swept method under one value of one setting."""

    axis: Axis
    value: Value
    own: bool
    """Whether it is the method's own value."""
    measures: dict[str, Measures]
    """By dataset."""
    minus_own: dict[str, Difference]
    """The same under this value less under the own one, by dataset; empty for that one and while it is not measured."""


def name_value(run: Run) -> str:
    """What `compare` calls the policies of a run's value."""
    return f"{run.axis} {run.value}"


def compare_values(
    study: Study, axis: Axis, runs: Sequence[Run], policies: Mapping[str, Sequence[Policy]]
) -> list[SweepPoint]:
    """Every value of one axis; `policies` are those of the runs, by dataset, each called as `name_value` does."""
    block, field = PLACES[axis]
    own = getattr(getattr(study.spec(runs[0].method, study.seeds[0]), block), field)
    turns = study.base.protocol.max_turns
    datasets = {name: compare(of_set, turns, [f"{axis} {own}"]) for name, of_set in policies.items()}
    return [
        SweepPoint(
            axis=axis,
            value=run.value,
            own=run.value == own,
            measures={name: dataset.methods[label] for name, dataset in datasets.items()},
            minus_own={
                name: one for name, dataset in datasets.items() for one in dataset.differences if one.method == label
            },
        )
        for label, run in {name_value(run): run for run in runs}.items()
        if run.value is not None
    ]
