"""Jobs: submit, list, show, watch, cancel, pause, resume."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.markup import escape
from rich.table import Column, Table

from cli.console import Job, Json, Url, open_jobs, out, run
from cli.progress import JobProgress, follow
from cli.report import build_table, compare, describe_rollouts
from shared.errors import SpecError
from shared.status import JobStatus, State


def submit(
    file: Annotated[Path, typer.Argument(help="The job as JSON or YAML; - reads standard input.", allow_dash=True)],
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    key: Annotated[
        str | None,
        typer.Option(help="Idempotency key: the same key and job again is the same job, for a week. Made up without."),
    ] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Submit a job and print its id.

    Example: drift submit job.yaml --watch
    """
    body = read_job(file)

    async def send() -> str:
        async with open_jobs(url) as jobs:
            return await jobs.submit_json(body, key)

    job = run(send())
    print(json.dumps({"id": job}) if as_json else job, flush=True)
    if watch_it:
        watch(job, as_json, url)


def read_job(file: Path) -> str:
    """The job in a file as JSON, which the service checks. Raises `SpecError` for what is neither JSON nor YAML."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{file} cannot be read: {error.strerror}.", remedy="Name a JSON or YAML file.") from None
    except UnicodeDecodeError:
        raise SpecError(f"{file} is not UTF-8 text.", remedy="Name a JSON or YAML file.") from None
    spec = _parse(text, file)
    if not isinstance(spec, dict):
        raise SpecError(f"{file} holds no job.", remedy="Write an object; `drift init` writes an example.")
    try:
        return json.dumps(spec)
    except TypeError as error:
        raise SpecError(f"{file}: {error}.", remedy="Put dates and the like into quotes.") from None


def _parse(text: str, file: Path) -> object:
    """JSON first: YAML refuses the tabs that JSON may be indented with, and takes long over many problems."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        as_json = error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as as_yaml:
        said = f"{file} is neither JSON nor YAML.\nAs JSON: {as_json}.\nAs YAML: {as_yaml}\n"
        raise SpecError(said, remedy="`drift init` writes an example.") from None


def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most jobs shown.")] = 20,
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """List the newest jobs.

    Example: drift jobs --state running
    """

    async def ask() -> list[JobStatus]:
        async with open_jobs(url) as jobs:
            return await jobs.list(limit, state)

    found = run(ask())
    if as_json:
        print(json.dumps([job.model_dump(mode="json") for job in found]))
        return
    table = Table(Column("id", no_wrap=True), "name", "state", "doing", "created")
    for job in found:
        created = datetime.fromtimestamp(job.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
        table.add_row(job.id, escape(job.name), colour(job.state), escape(describe_progress(job)), created)
    out.print(table)


def show(job: Job, as_json: Json = False, url: Url = None) -> None:
    """Show one job and its evaluations.

    Example: drift show 20260101-120000-0123ab
    """

    async def ask() -> bytes:
        async with open_jobs(url) as jobs:
            return await jobs.get_json(job)

    answer = run(ask())
    if as_json:
        print(answer.decode())
        return
    found = JobStatus.model_validate_json(answer)
    head = f"{found.id} {escape(found.name)}: {colour(found.state)} {escape(describe_progress(found))}"
    out.print(head, highlight=False)
    for name, value in (("error", found.error), ("checkpoint", found.checkpoint)):
        if value:
            out.print(f"{name}: {escape(value)}", highlight=False)
    _print_measures(found)


def watch(job: Job, as_json: Json = False, url: Url = None) -> None:
    """Follow one job to its end, live; exit code 0 only when it succeeds.

    Example: drift watch JOB
    """

    async def see() -> JobStatus:
        async with open_jobs(url) as jobs:
            with JobProgress(out, shown=not as_json) as shown:
                return await follow(jobs, job, shown)

    ended = run(see())
    if as_json:
        print(ended.model_dump_json())
    else:
        _print_measures(ended)
        out.print(f"{ended.id}: {colour(ended.state)} {escape(ended.error or '')}", highlight=False)
    if ended.state is not State.SUCCEEDED:
        raise typer.Exit(1)


def cancel(job: Job, as_json: Json = False, url: Url = None) -> None:
    """Cancel one job; what it has recorded stays.

    Example: drift cancel JOB
    """
    _command("DELETE", job, "", f"{job} is being cancelled.", as_json, url)


def pause(job: Job, as_json: Json = False, url: Url = None) -> None:
    """Stop rolling out until resumed; a training that runs goes on.

    Example: drift pause JOB
    """
    _command("POST", job, "/pause", f"{job} is being paused; go on with `drift resume {job}`.", as_json, url)


def resume(job: Job, as_json: Json = False, url: Url = None) -> None:
    """Go on with a paused job.

    Example: drift resume JOB
    """
    _command("POST", job, "/resume", f"{job} goes on.", as_json, url)


def describe_progress(job: JobStatus) -> str:
    """What the job does now, in a few words."""
    progress = job.progress
    if progress is None or job.state.final:
        return ""
    return f"{progress.label}, {progress.done}/{progress.total} {progress.unit}"


def colour(state: State) -> str:
    """The state in its colour."""
    colours = {State.SUCCEEDED: "green", State.FAILED: "red", State.RUNNING: "cyan"}
    return f"[{colours.get(state, 'yellow')}]{state}[/]"


def _print_measures(job: JobStatus) -> None:
    for line in describe_rollouts(job):
        out.print(line, highlight=False)
    for comparison in compare(job):
        out.print(build_table(comparison))


def _command(method: str, job: str, route: str, said: str, as_json: bool, url: str | None) -> None:
    async def ask() -> bytes:
        async with open_jobs(url) as jobs:
            return await jobs.command(method, job, route)

    answer = run(ask())
    if as_json:
        print(answer.decode())
    else:
        out.print(said, highlight=False)
