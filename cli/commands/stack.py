"""The local stack: up, down, status, and the demo that runs on it."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.table import Table

from cli.console import Json, out, run
from cli.demo import HealthPrinter, run_demo
from cli.local_stack import StackState, read_state, run_stack
from cli.model import ensure_model
from cli.process import Health, ServiceFailed, tail
from cli.settings import LocalSettings
from shared.errors import DriftError
from shared.settings import load_settings

UP_S = 900.0
"""Longest time for `drift up` to see everything healthy; each service's own deadline is shorter."""
DOWN_S = 150.0
POLL_S = 0.1


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
        run(_stay_up(settings, model))
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


def demo() -> None:
    """Train a small model to get better at trying again, start to end, on this machine."""
    run(run_demo(load_settings(LocalSettings), out))


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
