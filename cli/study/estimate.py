"""What a study would do and cost, and whether all that can be checked without an engine is in order.

Every row of every set is read and put into its template, so that a study that starts does not stop at a bad row days
later. Sets of the hub are read from there; what cannot be read is told with the reason, and counted as published.
"""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.study.plan import Kind, Task, list_tasks, plan_runs
from cli.study.study_file import Costs, Study
from services.rollout.problems.dataset import count_problems
from services.rollout.problems.presets import get_preset
from services.rollout.prompts import Prompts, pair_prompts
from services.trainer.settings import TrainerSettings
from shared.errors import DatasetError
from shared.job import DatasetSpec, JobSpec
from shared.schema import Schema

HOUR_S = 3600.0
_BYTES_A_TOKEN = 1.6
"""Of a recorded trajectory: each turn's whole context and answer as int32 and text, compressed; measured."""
_BYTES_A_WEIGHT = 2
"""Of an exported policy in bfloat16."""
_STATE_BYTES_A_WEIGHT = 12
"""Of a training's checkpoint: the weight and AdamW's two moments in float32."""
_STATES: int = TrainerSettings.model_fields["checkpoints_kept"].default + 1
"""Checkpoints of a running training: those that are kept and the one being written."""


class TaskEstimate(Schema):
    """One job."""

    kind: Kind
    label: str
    problems: int
    trajectories: int
    """Rolled out, evaluated, or trained on in all steps together."""
    tokens: float | None = None
    """Generated, or for a training read; absent where the study gives no `costs`."""
    hours: float | None = None
    """Of the machine; times its GPUs in the sums."""
    disk_gib: float | None = None


class StudyEstimate(Schema):
    """The whole."""

    study: str
    source: str | None
    """Where the costs are from."""
    faults: list[str]
    """Sets that could not be read, or have bad rows."""
    tasks: list[TaskEstimate]
    hours: float | None
    gpu_hours: float | None
    """Of GPUs that compute."""
    held_gpu_hours: float | None
    """Of all GPUs for all hours: jobs run one after the other, so that the engines' idle while the trainer's work."""
    tokens: float | None
    disk_gib: float | None
    """All that stays, and the checkpoints of the one training that runs, which go when it ends."""
    trainer_gib: float | None
    """Memory of one trainer rank."""


def estimate(study: Study, data_root: Path) -> StudyEstimate:
    """Raises `SpecError` for a template that a job would be refused for."""
    reader = _Reader(data_root)
    tasks = [_estimate(study, task, reader) for task in list_tasks(plan_runs(study))]
    costs = study.costs
    hours = _sum([task.hours for task in tasks])
    return StudyEstimate(
        study=study.name,
        source=costs.source if costs else None,
        faults=reader.faults,
        tasks=tasks,
        hours=hours,
        gpu_hours=_sum([_gpu_hours(task, costs) for task in tasks]) if costs else None,
        held_gpu_hours=hours * (costs.engine_gpus + costs.trainer_gpus) if costs and hours is not None else None,
        tokens=_sum([task.tokens for task in tasks]),
        disk_gib=_sum([*(task.disk_gib for task in tasks), _training_gib(tasks, costs)]),
        trainer_gib=costs.trainer_gib if costs else None,
    )


class _Reader:
    """Reads each set under each template once."""

    def __init__(self, data_root: Path) -> None:
        self._data_root = data_root
        self._counted: dict[str, int] = {}
        self.faults: list[str] = []

    def count(self, spec: JobSpec) -> int:
        """Problems of all of a job's sets."""
        protocol = spec.protocol.model_dump_json()
        return sum(self._count(dataset, prompts, protocol) for dataset, prompts in pair_prompts(spec) if dataset)

    def _count(self, dataset: DatasetSpec, prompts: Prompts, protocol: str) -> int:
        name = f"{dataset.model_dump_json()} {protocol}"
        if name not in self._counted:
            try:
                self._counted[name] = count_problems(dataset, self._data_root, prompts.open).problems
            except DatasetError as error:
                if str(error) not in self.faults:
                    self.faults.append(str(error))
                self._counted[name] = _expect(dataset)
        return self._counted[name]


def _expect(dataset: DatasetSpec) -> int:
    """Problems of a set that cannot be read, as far as that is known."""
    if dataset.mix:
        return sum(_expect(part) for part in dataset.mix)
    return dataset.limit or (get_preset(dataset.preset).rows if dataset.preset else 0)


def _estimate(study: Study, task: Task, reader: _Reader) -> TaskEstimate:
    spec, costs = task.spec, study.costs
    if task.kind == "train":
        assert spec.train and spec.train.steps
        trajectories = spec.train.steps * spec.train.batch_size
        assert task.rollouts
        tokens = trajectories * _tokens_read(costs, task.rollouts.spec) if costs else None
        share = costs.trained_share if costs and spec.train.skips else 1.0
        return TaskEstimate(
            kind=task.kind,
            label=task.label,
            problems=0,
            trajectories=trajectories,
            tokens=tokens,
            hours=tokens * share / costs.trained_per_s / HOUR_S if costs and tokens else None,
            disk_gib=_BYTES_A_WEIGHT * costs.parameters / 2**30 if costs else None,
        )
    problems = reader.count(spec)
    trajectories = problems * (spec.sampling.trajectories if task.kind == "rollout" else 1)
    turns = _turns(costs, spec) if costs else 0.0
    tokens = trajectories * turns * costs.turn_tokens if costs else None
    recorded = trajectories * turns * (_tokens_read(costs, spec) / 2 + costs.turn_tokens) if costs else None
    return TaskEstimate(
        kind=task.kind,
        label=task.label,
        problems=problems,
        trajectories=trajectories,
        tokens=tokens,
        hours=tokens / costs.generated_per_s / HOUR_S if costs and tokens else None,
        disk_gib=recorded * _BYTES_A_TOKEN / 2**30 if recorded else None,
    )


def _training_gib(tasks: list[TaskEstimate], costs: Costs | None) -> float | None:
    if costs is None:
        return None
    states = _STATES if any(task.kind == "train" for task in tasks) else 0
    return states * _STATE_BYTES_A_WEIGHT * costs.parameters / 2**30


def _turns(costs: Costs, spec: JobSpec) -> float:
    return min(costs.turns, spec.protocol.max_turns)


def _tokens_read(costs: Costs, spec: JobSpec) -> float:
    """Mean context and response of a terminal turn."""
    return costs.prompt_tokens + _turns(costs, spec) * costs.turn_tokens


def _gpu_hours(task: TaskEstimate, costs: Costs) -> float | None:
    gpus = costs.trainer_gpus if task.kind == "train" else costs.engine_gpus
    return None if task.hours is None else task.hours * gpus


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) and known else None


def print_estimate(expected: StudyEstimate, console: Console) -> None:
    """The list of jobs, and the sums."""
    table = Table("job", "problems", "trajectories", "tokens", "hours", "disk GiB")
    for task in expected.tasks:
        table.add_row(
            task.label,
            str(task.problems or ""),
            str(task.trajectories),
            *("" if value is None else f"{value:,.{digits}f}" for value, digits in (
                (task.tokens, 0), (task.hours, 3), (task.disk_gib, 2))),
        )  # fmt: skip
    console.print(table)
    good = "not all sets could be read" if expected.faults else "rows, templates and settings are in order"
    console.print(f"{len(expected.tasks)} jobs; {good}.", highlight=False)
    for fault in expected.faults:
        console.print(f"[red]✗[/] {escape(fault)}", highlight=False)
    if expected.hours is None:
        console.print("The study gives no `costs`, so there is no estimate of its time.", highlight=False)
        return
    held, computing = expected.held_gpu_hours, expected.gpu_hours or 0
    gpus = f"{held:,.0f} GPU hours ({computing:,.0f} of them computing), " if held else ""
    console.print(
        f"About {expected.tokens or 0:,.0f} tokens, {expected.hours:.1f} hours, {gpus}{expected.disk_gib or 0:.1f} GiB "
        f"on disk, {expected.trainer_gib:.1f} GiB in a trainer rank. Costs: {expected.source}",
        highlight=False,
    )
