"""From a study to the jobs that it takes. Pure.

A task is one job: rollouts, a training on them, or an evaluation. Its key is a digest of everything that its outcome
depends on, the tasks before it included, so that what two methods have in common is one task, and a study that is run
again, or changed, repeats nothing that it has.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from cli.study.study_file import PLACES, Axis, Study, Value, change
from shared.job import JobSpec, PolicySpec, RefreshSpec
from shared.returns import ReturnSpec

Kind = Literal["rollout", "train", "evaluate"]


@dataclass(frozen=True)
class Task:
    """One job of a study."""

    kind: Kind
    model: str
    """What the base policy is."""
    label: str = field(compare=False)
    """For people: what it is for; no part of the key."""
    spec: JobSpec
    """Without the jobs that it refers to."""
    policy: "Task | None" = None
    """The training whose policy rolls out or is evaluated; None is the base."""
    rollouts: "Task | None" = None
    """What a training trains on."""
    key: str = field(init=False)

    def __post_init__(self) -> None:
        before = [task.key if task else "" for task in (self.policy, self.rollouts)]
        told = self.spec.model_copy(update={"name": "job"}).model_dump_json(exclude_defaults=True)
        digest = hashlib.blake2b("\n".join([self.model, *before, told]).encode(), digest_size=8).hexdigest()
        object.__setattr__(self, "key", f"{self.kind}-{digest}")

    @property
    def needs(self) -> list["Task"]:
        return [task for task in (self.policy, self.rollouts) if task]

    def to_job(self, jobs: Mapping[str, str]) -> JobSpec:
        """The job to submit; `jobs` has the ids of the tasks before it, by key."""
        update: dict[str, object] = {}
        if self.policy:
            update["start_from"] = PolicySpec(job=jobs[self.policy.key])
        if self.rollouts:
            update["rollouts_of"] = jobs[self.rollouts.key]
        return self.spec.model_copy(update=update)


@dataclass(frozen=True)
class Run:
    """One policy of the study, how it came about, and where it is measured."""

    method: str
    seed: int | None
    """None: the base, which no seed changes."""
    axis: Axis | Literal["max_turns"] | None = None
    value: Value | None = None
    """Of the axis, for a run of the sweep or the timing."""
    rollouts: tuple[Task, ...] = ()
    trainings: tuple[Task, ...] = ()
    evaluation: Task | None = None

    def tasks(self) -> Iterator[Task]:
        """In an order in which they can be done."""
        for rollout, training in zip(self.rollouts, self.trainings, strict=True):
            yield rollout
            yield training
        if self.evaluation:
            yield self.evaluation


def plan_runs(study: Study) -> list[Run]:
    """Every run: all methods of the first seed, of the second and so on; then the sweep, then the timing."""
    runs = [_measure_base(study, method) for method, overlay in study.methods.items() if overlay is None]
    trained = [method for method, overlay in study.methods.items() if overlay is not None]
    runs += [_plan_run(study, method, seed) for seed in study.seeds for method in trained]
    if sweep := study.sweep:
        for axis, values in sweep.axes.items():
            for value in _with_own(study, sweep.method, axis, values):
                for seed in sweep.seeds or study.seeds:
                    runs.append(_plan_run(study, sweep.method, seed, axis, value))
    if timing := study.timing:
        for max_turns in timing.max_turns:
            for method in timing.methods:
                runs.append(_plan_timing(study, method, max_turns))
    return runs


def list_tasks(runs: Iterable[Run]) -> list[Task]:
    """Each task once, after those that it needs."""
    tasks: dict[str, Task] = {}
    for run in runs:
        for task in run.tasks():
            tasks.setdefault(task.key, task)
    return list(tasks.values())


def list_rollouts(runs: Iterable[Run]) -> list[Task]:
    """All rollouts, those of a refresh's later stages with them."""
    return [task for task in list_tasks(runs) if task.kind == "rollout"]


def _measure_base(study: Study, method: str) -> Run:
    return Run(method, None, evaluation=_evaluate(study, study.base, None, method))


def _plan_run(study: Study, method: str, seed: int, axis: Axis | None = None, value: Value | None = None) -> Run:
    changes = change(axis, value) if axis and value is not None else {}
    spec = study.spec(method, seed, None if axis == "feedback" else changes)
    label = f"{method} seed {seed}" + (f" {axis} {value}" if axis else "")
    rollouts, trainings = _plan_stages(study.model, spec, label)
    measured = study.spec(method, seed, changes) if axis == "feedback" else spec
    return Run(method, seed, axis, value, rollouts, trainings, _evaluate(study, measured, trainings[-1], label))


def _plan_timing(study: Study, method: str, max_turns: int) -> Run:
    seed = study.seeds[0]
    spec = study.spec(method, seed, {"protocol": {"max_turns": max_turns}})
    rollouts, trainings = _plan_stages(study.model, spec, f"{method} seed {seed} max_turns {max_turns}")
    return Run(method, seed, "max_turns", max_turns, rollouts, trainings)


def _plan_stages(model: str, spec: JobSpec, label: str) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Rollouts and trainings in turn (paper D.5); the steps are split evenly over the stages."""
    assert spec.train and spec.train.steps
    stages = spec.refresh.stages
    train = spec.train.model_copy(update={"steps": math.ceil(spec.train.steps / stages)})
    rollouts: list[Task] = []
    trainings: list[Task] = []
    policy: Task | None = None
    for stage in range(stages):
        name = f"{label} stage {stage + 1}" if stages > 1 else label
        # Weights are computed when a training begins, so that rollouts do not depend on them.
        asked = {"returns": ReturnSpec(), "train": None, "refresh": RefreshSpec(), "evaluate": []}
        rollout = Task("rollout", model, f"roll out for {name}", spec.model_copy(update=asked), policy)
        update = {"dataset": None, "protocol": JobSpec.model_fields["protocol"].default, "train": train}
        told = spec.model_copy(update=update | {"refresh": RefreshSpec(), "evaluate": []})
        policy = Task("train", model, f"train {name}", told, rollouts=rollout)
        rollouts.append(rollout)
        trainings.append(policy)
    return tuple(rollouts), tuple(trainings)


def _evaluate(study: Study, spec: JobSpec, policy: Task | None, label: str) -> Task:
    """All policies on the same sets; greedy, so that neither the returns nor the rollouts' sampling matter."""
    update = {
        "dataset": None,
        "returns": ReturnSpec(),
        "train": None,
        "refresh": RefreshSpec(),
        "sampling": study.base.sampling,
        "evaluate": study.base.evaluate,
    }
    return Task("evaluate", study.model, f"evaluate {label}", spec.model_copy(update=update), policy)


def _with_own(study: Study, method: str, axis: Axis, values: Iterable[Value]) -> list[Value]:
    """The method's own value and those of an axis; numbers in their order."""
    block, name = PLACES[axis]
    own: Value = getattr(getattr(study.spec(method, study.seeds[0]), block), name)
    every = [own, *(value for value in values if value != own)]
    numbers = sorted(value for value in every if not isinstance(value, str))
    return [*numbers, *(value for value in every if isinstance(value, str))]


def name_job(study: Study, task: Task) -> str:
    """What the task's job is called; the service takes letters, digits and a few signs."""
    allowed = "".join(sign if sign.isalnum() or sign in " .:@+-_" else "-" for sign in f"{study.name}: {task.label}")
    return allowed[:128]
