"""The command `drift`: the local stack, the demo, and jobs."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import psutil
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from cli.client import JobClient
from cli.demo import HealthPrinter, run_demo
from cli.doctor import examine
from cli.job_file import write_job_file
from cli.local_stack import StackState, read_state, run_stack
from cli.model import ensure_model
from cli.process import Health, ServiceFailed, tail
from cli.progress import JobProgress, follow
from cli.report import build_table, compare
from cli.settings import LocalSettings
from cli.verify import verify
from shared.errors import DriftError, SettingsError, SpecError
from shared.job import JobStatus, State
from shared.settings import load_settings

UP_S = 900.0
"""Longest time for `drift up` to see everything healthy; each service's own deadline is shorter."""
DOWN_S = 150.0
POLL_S = 0.1

out = Console()
err = Console(stderr=True)
T = TypeVar("T")


class Commands(typer.Typer):
    """Turns this project's errors into one clear message and an exit code: 2 for what the user has to mend, else 1."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        try:
            return super().__call__(*args, **kwargs)
        except DriftError as error:
            err.print(f"[red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            sys.exit(2 if isinstance(error, SettingsError | SpecError) or error.status in (404, 422) else 1)


app = Commands(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Url = Annotated[str | None, typer.Option(help="The rollout service; default: this machine's, DRIFT_ROLLOUT_PORT.")]
Job = Annotated[str, typer.Argument(help="The job's id, as `drift submit` and `drift jobs` print it.")]


@app.command()
def up(
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and stop everything on Ctrl-C.")] = False,
) -> None:
    """Start the local stack. Example: drift up"""
    settings = load_settings(LocalSettings)
    root = settings.stack_root.resolve()
    running = read_state(root)
    if running is not None:
        out.print(f"The stack runs already (process {running.pid}), see `drift status`.", highlight=False)
        return
    model = settings.model or str(ensure_model(root / "model", out.print))
    if foreground:
        _run(_stay_up(settings, model))
        return
    settings.logs.mkdir(parents=True, exist_ok=True)
    log = settings.logs / "stack.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up", "--foreground"],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    _await_up(process, root, log)
    _print_state(_require_state(root))


@app.command()
def down() -> None:
    """Stop the local stack that `drift up` started."""
    root = load_settings(LocalSettings).stack_root.resolve()
    running = read_state(root)
    if running is None:
        out.print("No stack runs here.")
        return
    psutil.Process(running.pid).send_signal(signal.SIGTERM)
    deadline = time.monotonic() + DOWN_S
    # Its lock tells, not its process id: nobody may ever reap an orphan.
    while read_state(root) is not None:
        if time.monotonic() > deadline:
            raise DriftError(f"The stack (process {running.pid}) did not end within {DOWN_S:.0f} s.")
        time.sleep(POLL_S)
    out.print("Stopped.")


@app.command()
def status(as_json: Json = False) -> None:
    """Show the local stack; exit code 0 only when all of it is healthy."""
    running = read_state(load_settings(LocalSettings).stack_root.resolve())
    if as_json:
        print(running.model_dump_json() if running else "null")
    elif running is None:
        out.print("No stack runs here; start it with `drift up`.")
    else:
        _print_state(running)
    if running is None or not running.healthy:
        raise typer.Exit(1)


@app.command()
def demo() -> None:
    """Train a small model to get better at trying again, start to end, on this machine."""
    _run(run_demo(load_settings(LocalSettings), out))


app.command()(verify)


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="The job as JSON; - reads standard input.", allow_dash=True)],
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    url: Url = None,
) -> None:
    """Submit a job and print its id. Example: drift submit job.json"""
    try:
        body = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{file} cannot be read: {error}.", remedy="Name a JSON file.") from None

    async def send() -> str:
        async with _jobs(url) as jobs:
            return await jobs.submit_json(body)

    job = _run(send())
    print(job, flush=True)
    if watch_it:
        watch(job, url)


@app.command()
def init(path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("job.yaml")) -> None:
    """Write a commented job file to begin with. Example: drift init my-job.yaml"""
    write_job_file(path)
    out.print(f"{path} is written: name your questions in it, then `drift submit {path}`.", highlight=False)


@app.command()
def doctor(as_json: Json = False, url: Url = None) -> None:
    """Look at Redis, engines, verifier, disk and versions; exit code 0 when a job could run. Example: drift doctor"""
    local = load_settings(LocalSettings)
    findings = _run(examine(local.to_rollout_settings(), url or local.rollout_url))
    if as_json:
        print(json.dumps([finding.model_dump() for finding in findings]))
    else:
        table = Table("", "what", "seen", "what to do")
        for finding in findings:
            mark = {"good": "[green]✓", "doubtful": "[yellow]!", "bad": "[red]✗"}[finding.state]
            table.add_row(mark, finding.what, escape(finding.said), escape(finding.remedy or ""))
        out.print(table)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


@app.command("jobs")
def list_jobs(as_json: Json = False, url: Url = None) -> None:
    """List the newest jobs."""

    async def ask() -> list[JobStatus]:
        async with _jobs(url) as jobs:
            return await jobs.list()

    found = _run(ask())
    if as_json:
        print(json.dumps([job.model_dump(mode="json") for job in found]))
        return
    table = Table(Column("id", no_wrap=True), "name", "state", "doing", "created")
    for job in found:
        created = datetime.fromtimestamp(job.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
        table.add_row(job.id, job.name, _colour(job.state), _describe_progress(job), created)
    out.print(table)


@app.command()
def show(job: Job, as_json: Json = False, url: Url = None) -> None:
    """Show one job and its evaluations."""

    async def ask() -> bytes:
        async with _jobs(url) as jobs:
            return await jobs.get_json(job)

    answer = _run(ask())
    if as_json:
        print(answer.decode())
        return
    found = JobStatus.model_validate_json(answer)
    out.print(f"{found.id} {found.name}: {_colour(found.state)} {_describe_progress(found)}", highlight=False)
    for name, value in (("error", found.error), ("checkpoint", found.checkpoint)):
        if value:
            out.print(f"{name}: {escape(value)}", highlight=False)
    for comparison in compare(found):
        out.print(build_table(comparison))


@app.command()
def watch(job: Job, url: Url = None) -> None:
    """Follow one job to its end; exit code 0 only when it succeeds."""

    async def see() -> JobStatus:
        async with _jobs(url) as jobs:
            with JobProgress(out) as shown:
                return await follow(jobs, job, shown)

    ended = _run(see())
    for comparison in compare(ended):
        out.print(build_table(comparison))
    out.print(f"{ended.id}: {_colour(ended.state)} {escape(ended.error or '')}", highlight=False)
    if ended.state is not State.SUCCEEDED:
        raise typer.Exit(1)


@app.command()
def cancel(job: Job, url: Url = None) -> None:
    """Cancel one job; what it has recorded stays."""

    async def ask() -> None:
        async with _jobs(url) as jobs:
            await jobs.cancel(job)

    _run(ask())
    out.print(f"{job} is being cancelled.", highlight=False)


def _jobs(url: str | None) -> AbstractAsyncContextManager[JobClient]:
    settings = load_settings(LocalSettings)
    key = settings.api_keys[0].get_secret_value() if settings.api_keys else None
    return JobClient.open(url or settings.rollout_url, key)


def _run(main: Coroutine[object, object, T]) -> T:
    """Run to the end; SIGTERM and SIGHUP cancel it as Ctrl-C does, so that everything it started is ended."""

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await main

    try:
        return asyncio.run(guarded())
    except KeyboardInterrupt:
        err.print("Stopped.")
        raise typer.Exit(130) from None
    except asyncio.CancelledError:
        err.print("Stopped by a signal.")
        raise typer.Exit(143) from None


async def _stay_up(settings: LocalSettings, model: str) -> None:
    async with run_stack(settings, model, HealthPrinter(out)) as stack:
        out.print(f"Everything is healthy: {stack.rollout_url}. Ctrl-C stops it.", highlight=False)
        await asyncio.Event().wait()


def _await_up(process: "subprocess.Popen[bytes]", root: Path, log: Path) -> None:
    """Show the services on their way to health; raises `ServiceFailed` when the stack ends or is late."""
    printed = 0
    deadline = time.monotonic() + UP_S
    while True:
        state, ended = read_state(root), process.poll()
        said = log.read_text(errors="replace").splitlines(keepends=False)
        for line in said[printed:]:
            out.print(line, highlight=False, markup=False)
        printed = len(said)
        if state is not None and state.healthy:
            return
        if ended is not None:
            raise ServiceFailed(f"The stack did not start; see above and {log}.")
        if time.monotonic() > deadline:
            process.terminate()
            raise ServiceFailed(f"The stack was not healthy within {UP_S:.0f} s.\nLog: {log}\n{tail(log)}")
        time.sleep(0.2)


def _require_state(root: Path) -> StackState:
    state = read_state(root)
    if state is None:
        raise ServiceFailed("The stack ended right after it had started.", remedy=f"See the logs in {root / 'logs'}.")
    return state


def _print_state(state: StackState) -> None:
    table = Table("service", "health", "process", "restarts", "log")
    for service in state.services:
        good = service.health is Health.HEALTHY
        health = f"[green]{service.health}" if good else f"[yellow]{service.health}"
        table.add_row(service.name, health, str(service.pid or ""), str(service.restarts), str(service.log))
    out.print(table)
    out.print(f"Rollout service: {state.rollout_url} (supervisor: process {state.pid})", highlight=False)


def _describe_progress(job: JobStatus) -> str:
    progress = job.progress
    if progress is None or job.state.final:
        return ""
    return f"{progress.label}, {progress.done}/{progress.total} {progress.unit}"


def _colour(state: State) -> str:
    colours = {State.SUCCEEDED: "green", State.FAILED: "red", State.RUNNING: "cyan"}
    return f"[{colours.get(state, 'yellow')}]{state}[/]"


if __name__ == "__main__":
    app()
