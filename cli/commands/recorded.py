"""What jobs have recorded: export, reweight, and the problem sets that a job can name."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from cli.commands.jobs import watch
from cli.console import Job, Json, Url, open_jobs, out, run
from cli.report import unpack_report
from shared.errors import Conflict
from shared.job import JobSpec
from shared.measures import Composition
from shared.schema import Schema
from shared.training import Objective, TrainSpec


class _Histogram(Schema, extra="ignore"):
    edges: list[float]
    counts: list[int]


class _Size(Schema, extra="ignore"):
    mean: float
    min: float


class _Skipped(Schema, extra="ignore"):
    epsilon: float
    trajectories: int
    mass: float


class _Weights(Schema, extra="ignore"):
    part: str
    trajectories: int
    weighted: int
    composition: Composition
    effective_sample_size: _Size | None
    weights: _Histogram
    skipped: _Skipped


class _Preset(Schema, extra="ignore"):
    name: str
    title: str
    splits: list[str]
    rows: int
    kind: str
    licence: str
    gated: bool
    file: str | None


class _PresetList(Schema):
    presets: list[_Preset]


def report(
    job: Job,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder; default: JOB-report.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into the folder where there is one.")] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Save a job's report: report.md with its figures as SVG, and the same numbers as report.json.

    Example: drift report JOB -o my-report
    """
    folder = output or Path(f"{job}-report")
    if folder.exists() and not force:
        raise Conflict(f"{folder} is there already.", remedy="Name another with --output, or give --force.")

    async def ask() -> bytes:
        async with open_jobs(url) as jobs:
            return await jobs.report(job)

    files = unpack_report(run(ask()), folder)
    if as_json:
        print(json.dumps({"files": [str(file) for file in files]}))
    else:
        out.print(f"{folder / 'report.md'}, with {len(files) - 1} files beside it.", highlight=False, markup=False)


def export(
    job: Job,
    format: Annotated[Literal["jsonl", "parquet", "hf"], typer.Option(help="hf: a tar of a dataset folder.")] = "jsonl",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: JOB with the format's ending.")
    ] = None,
    part: Annotated[str | None, typer.Option(help="Only this part, e.g. rollout-0 or evaluate-1-0.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file where there is one.")] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Save a job's trajectories with return and weight.

    Example: drift export JOB --format parquet -o out.parquet
    """
    path = output or Path(f"{job}.{'tar' if format == 'hf' else format}")
    if path.exists() and not force:
        raise Conflict(f"{path} is there already.", remedy="Name another with --output, or give --force.")
    partial = path.with_name(f".{path.name}.part")

    async def save() -> int:
        size = 0
        async with open_jobs(url) as jobs:
            with partial.open("wb") as file:
                async for piece in jobs.export(job, format, part):
                    size += file.write(piece)
        return size

    try:
        size = run(save())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if as_json:
        print(json.dumps({"path": str(path), "bytes": size}))
    else:
        out.print(f"{path}: {size} bytes", markup=False)


def reweight(
    job: Job,
    gamma: Annotated[float | None, typer.Option(help="Discount for each further turn.")] = None,
    beta: Annotated[float | None, typer.Option(help="Temperature of exp(R / beta).")] = None,
    repeat_penalty: Annotated[float | None, typer.Option("--lambda", help="Weight of repeated answers.")] = None,
    format_penalty: Annotated[float | None, typer.Option("--phi", help="Cost of a turn without an answer.")] = None,
    objective: Annotated[Objective, typer.Option(help="What to train on.")] = "drift",
    train: Annotated[
        bool, typer.Option("--train", help="Report on the first stage's rollouts, and train on them.")
    ] = False,
    watch_it: Annotated[bool, typer.Option("--watch", help="With --train: follow the training.")] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Weigh a job's rollouts anew, without new ones; constants left out are the job's own.

    Example: drift reweight JOB --beta 0.2 --objective drift --train
    """
    asked = {"gamma": gamma, "beta": beta, "lambda": repeat_penalty, "phi": format_penalty, "objective": objective}
    asked["stage"] = 0 if train else None  # `rollouts_of` trains on the first; absent is the last
    asked = {name: value for name, value in asked.items() if value is not None}

    async def weigh() -> tuple[bytes, str | None]:
        async with open_jobs(url) as jobs:
            report = await jobs.weights(job, asked)
            return report, await jobs.submit(_retrain(job, await jobs.spec(job), report, objective)) if train else None

    report, training = run(weigh())
    if as_json:
        print(json.dumps({"weights": json.loads(report), "job": training}))
    else:
        _print_weights(_Weights.model_validate_json(report))
        if training:
            out.print(f"Training on these rollouts: {training}", highlight=False)
    if training and watch_it:
        watch(training, as_json, url)


def presets(as_json: Json = False, url: Url = None) -> None:
    """List the problem sets that a job can name as `preset`.

    Example: drift presets
    """

    async def ask() -> bytes:
        async with open_jobs(url) as jobs:
            return await jobs.presets()

    answer = run(ask())
    if as_json:
        print(answer.decode())
        return
    table = Table("preset", "what", "kind", "rows", "splits", "from", "licence")
    for one in _PresetList.model_validate_json(answer).presets:
        origin = one.file or ("hub, gated" if one.gated else "hub")
        rows = str(one.rows or "")
        table.add_row(one.name, escape(one.title), one.kind, rows, ", ".join(one.splits), origin, escape(one.licence))
    out.print(table)


class _Returns(Schema):
    """The part of the service's report that a training needs: the constants in force."""

    gamma: float
    beta: float
    repeat_penalty: float
    format_penalty: float


class _Asked(Schema, extra="ignore"):
    returns: _Returns


def _retrain(job: str, spec: JobSpec, report: bytes, objective: Objective) -> JobSpec:
    """A job that trains on the rollouts of `job` with the constants of the report, and evaluates as that one did."""
    train = (spec.train or TrainSpec()).model_copy(update={"objective": objective})
    return JobSpec.model_validate(
        {
            "name": f"{spec.name[:100]} reweighted",
            "rollouts_of": spec.rollouts_of or job,
            "protocol": spec.protocol,
            "sampling": spec.sampling,
            "returns": _Asked.model_validate_json(report).returns.model_dump(),
            "train": train,
            "evaluate": spec.evaluate,
        }
    )


def _print_weights(weights: _Weights) -> None:
    groups, size = weights.composition, weights.effective_sample_size
    out.print(
        f"{weights.part}: {weights.weighted} of {weights.trajectories} trajectories carry weight.", highlight=False
    )
    out.print(
        f"Groups: {groups.complete} complete ({groups.all_correct} all correct, {groups.mixed} mixed, "
        f"{groups.all_wrong} all wrong), {groups.spoiled} spoiled.",
        highlight=False,
    )
    if size:
        out.print(f"Effective sample size of a group: mean {size.mean:.2f}, least {size.min:.2f}.", highlight=False)
    skipped = weights.skipped
    out.print(
        f"At epsilon {skipped.epsilon:g}, {skipped.trajectories} are skipped; they carry {100 * skipped.mass:.4f} % "
        "of the weight.",
        highlight=False,
    )
    table = Table("weight from", "to", "trajectories", "")
    most = max(weights.weights.counts, default=0)
    edges = weights.weights.edges
    for low, high, count in zip(edges, edges[1:], weights.weights.counts, strict=False):
        if count:
            table.add_row(f"{low:.2g}", f"{high:.2g}", str(count), "█" * max(1, round(30 * count / most)))
    out.print(table)
