"""A study as its file says it: one base job, methods that change some of it, one setting at a time, and seeds.

The file is YAML. `base` is a job as `drift submit` takes it; a method is an overlay on it, `null` for the policy that
nobody trains. What is wrong is refused by its place in the file before anything runs.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, JsonValue, ValidationError, model_validator

from shared.errors import SpecError
from shared.job import DatasetSpec, JobSpec
from shared.schema import Schema, describe_faults

Overlay = dict[str, JsonValue]
"""Part of a job: what is named replaces the base's, field by field."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
MAX_NAME = 64
"""Characters of a study's name."""

Axis = Literal["gamma", "beta", "lambda", "trajectories", "feedback", "steps", "epsilon"]
"""What a sweep may change; `trajectories` is K. `feedback` changes the evaluation alone, as in the paper's figure 4."""

Value = float | int | str
"""Of a setting."""

PLACES: Mapping[Axis, tuple[str, str]] = {
    "gamma": ("returns", "gamma"),
    "beta": ("returns", "beta"),
    "lambda": ("returns", "repeat_penalty"),
    "trajectories": ("sampling", "trajectories"),
    "feedback": ("protocol", "feedback"),
    "steps": ("train", "steps"),
    "epsilon": ("train", "epsilon"),
}
"""Where a job keeps the setting of an axis."""

BASE, SFT_5TURN, DRIFT = "base", "sft_5turn", "drift"
"""Methods that results are compared with, and the one that is compared."""


class Sweep(Schema):
    """One method under other values of one setting at a time; the base's own value is measured anyway."""

    method: Name = DRIFT
    seeds: Annotated[list[int], Field(min_length=1)] | None = None
    """Absent takes the study's."""
    axes: Annotated[dict[Axis, Annotated[list[Value], Field(min_length=1)]], Field(min_length=1)]


class Timing(Schema):
    """Time of rollouts and trainings by turn budget (paper figure 6); nothing is evaluated."""

    methods: Annotated[list[Name], Field(min_length=1)]
    max_turns: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1)]


class Costs(Schema):
    """What the study's hardware does, for the estimate of `--dry-run`: measured, or said to be assumed."""

    source: str
    """Where the figures are from."""
    turns: Annotated[float, Field(ge=1)]
    """Mean turns of a trajectory."""
    turn_tokens: Annotated[float, Field(gt=0)]
    """Mean tokens that the policy generates a turn."""
    prompt_tokens: Annotated[float, Field(gt=0)]
    """Mean tokens of a trajectory that nobody generates: template, problem and feedback."""
    generated_per_s: Annotated[float, Field(gt=0)]
    """Tokens that all engines together generate a second."""
    trained_per_s: Annotated[float, Field(gt=0)]
    """Tokens (context and response) that the trainer gets through a second."""
    trained_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the tokens that is computed where the objective skips; without skipping it is all of them."""
    parameters: Annotated[int, Field(gt=0)]
    trainer_gib: Annotated[float, Field(gt=0)]
    """Memory of one trainer rank."""
    engine_gpus: Annotated[int, Field(ge=0)] = 0
    trainer_gpus: Annotated[int, Field(ge=0)] = 0


class Study(Schema):
    """What is compared with what."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$", max_length=MAX_NAME)]
    model: str
    """Hub name or folder of the base policy; the engines must serve it."""
    base: JobSpec
    methods: Annotated[dict[Name, Overlay | None], Field(min_length=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
    """A seed chooses the training problems and the order of training; the rollouts are drawn anew for each."""
    sweep: Sweep | None = None
    timing: Timing | None = None
    costs: Costs | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        base = self.base
        if base.dataset is None or base.train is None or not base.evaluate:
            raise ValueError("`base` needs `dataset`, `train` and `evaluate`")
        names = [dataset.name for dataset in base.evaluate]
        if len(set(names)) < len(names):
            raise ValueError(f"`base.evaluate` has two sets of the same name ({', '.join(names)})")
        if base.start_from or base.rollouts_of:
            raise ValueError("`base` begins with the model: leave out `start_from` and `rollouts_of`")
        if base.train.steps is None:
            raise ValueError("`base.train` needs `steps`, so that all methods take equally many")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("`seeds` names one twice")
        used = [*([self.sweep.method] if self.sweep else []), *(self.timing.methods if self.timing else [])]
        for name in used:
            if self.methods.get(name) is None:
                raise ValueError(f"{name!r} is not a method of this study that is trained")
        for name in self.methods:
            self.spec(name, self.seeds[0])
        if self.sweep:
            for axis, values in self.sweep.axes.items():
                for value in values:
                    self.spec(self.sweep.method, self.seeds[0], change(axis, value))
        return self

    def spec(self, method: str, seed: int, changes: Overlay | None = None) -> JobSpec:
        """The job of a method: the base, the method's overlay, `changes`, and what the seed chooses.

        Raises `ValueError` that names the method where that is no job.
        """
        whole = merge(self.base.model_dump(mode="json", exclude_unset=True), self.methods[method] or {})
        whole = merge(whole, changes or {})
        try:
            spec = JobSpec.model_validate(whole)
        except ValidationError as error:
            raise ValueError(f"methods.{method}: {describe_faults(error.errors())}") from None
        assert spec.dataset and spec.train
        train = spec.train.model_copy(update={"seed": seed})
        return spec.model_copy(update={"dataset": _shuffle(spec.dataset, seed), "train": train})


def _shuffle(dataset: DatasetSpec, seed: int) -> DatasetSpec:
    mix = [_shuffle(part, seed) for part in dataset.mix] if dataset.mix else None
    return dataset.model_copy(update={"shuffle_seed": seed, "mix": mix})


def change(axis: Axis, value: Value) -> Overlay:
    """The overlay that gives a setting a value."""
    block, name = PLACES[axis]
    return {block: {name: value}}


def merge(whole: Mapping[str, JsonValue], overlay: Mapping[str, JsonValue]) -> Overlay:
    """`whole` with what `overlay` names, objects field by field; a `dataset` is replaced as one."""
    merged = dict(whole)
    for name, value in overlay.items():
        own = merged.get(name)
        both = isinstance(own, dict) and isinstance(value, dict) and name != "dataset"
        merged[name] = merge(own, value) if both else value  # pyright: ignore[reportArgumentType]
    return merged


def load_study(path: Path, parity: str | None = None) -> Study:
    """Read a study; with `parity` its name says so and its base takes the authors' ways.

    Raises `SpecError` that names file, field and remedy.
    """
    whole = _read(path)
    if parity is not None:
        base = whole.get("base")
        if isinstance(base, dict):
            name = _shorten(f"{whole.get('name')}-{re.sub('[^a-z_]+', '-', parity)}")
            whole = {**whole, "name": name, "base": merge(base, load_parity(parity))}
    try:
        return Study.model_validate(whole)
    except ValidationError as error:
        raise SpecError(f"{path}: {describe_faults(error.errors())}", remedy="See docs/how-to/studies.md.") from None


def _shorten(name: str) -> str:
    """The name, or where that is too long for a study its beginning and a digest of it all."""
    digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - len(digest) - 1]}-{digest}"


_PARITY = Path(__file__).with_name("parity")


def load_parity(asked: str) -> Overlay:
    """The overlay of `authors`, or of some of its deviations: `authors:grading,clipping`."""
    name, _, some = asked.partition(":")
    known = sorted(path.stem for path in _PARITY.glob("*.yaml"))
    if name not in known:
        raise SpecError(f"--parity {name!r} is not known.", remedy=f"Use {', '.join(known)}.")
    deviations = _read(_PARITY / f"{name}.yaml")
    wanted = some.split(",") if some else list(deviations)
    merged: Overlay = {}
    for deviation in wanted:
        overlay = deviations.get(deviation)
        if not isinstance(overlay, dict):
            raise SpecError(
                f"--parity {name} has no deviation {deviation!r}.", remedy=f"It has {', '.join(deviations)}."
            )
        merged = merge(merged, overlay)
    return merged


def _read(path: Path) -> Overlay:
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path} cannot be read: {error}.", remedy="Name a study file, as in examples/studies."
        ) from None
    except yaml.YAMLError as error:
        raise SpecError(f"{path} is not YAML: {error}", remedy="See the examples in examples/studies.") from None
    if not isinstance(read, dict):
        raise SpecError(f"{path} holds no study.", remedy="See the examples in examples/studies.")
    return read
