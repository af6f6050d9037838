"""The local stack: up, down, status, and the demo that runs on it."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from cli.console import Json, err, out, run
from cli.local_stack import StackState, read_state, run_stack
from cli.process import Health, ServiceFailed, tail
from cli.progress import HealthPrinter
from cli.settings import LocalSettings
from shared.errors import DriftError
from shared.settings import load_settings

UP_S = 900.0
"""Longest time for `drift up` to see everything healthy; each service's own deadline is shorter."""
DOWN_S = 150.0
POLL_S = 0.1


def up(
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and stop everything on Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Start Valkey, vLLM, verifier, rollout service and trainer on this machine, and wait until all are healthy.

    Example: drift up
    """
    from cli.model import ensure_model

    settings = load_settings(LocalSettings)
    root = settings.stack_root.resolve()
    said = err if as_json else out
    running = read_state(root)
    if running is not None:
        said.print(f"The stack runs already (process {running.pid}), see `drift status`.", highlight=False)
        _show_state(running, as_json)
        return
    model = settings.model or str(ensure_model(root / "model", said.print))
    if foreground:
        run(_stay_up(settings, model, said, as_json))
        return
    settings.logs.mkdir(parents=True, exist_ok=True)
    log = settings.logs / "stack.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up", "--foreground"],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    _await_up(process, root, log, said)
    _show_state(_require_state(root), as_json)


def down(as_json: Json = False) -> None:
    """Stop the local stack that `drift up` started; what jobs have recorded stays.

    Example: drift down
    """
    root = load_settings(LocalSettings).stack_root.resolve()
    running = read_state(root)
    if running is None:
        print(json.dumps({"stopped": None})) if as_json else out.print("No stack runs here.")
        return
    psutil.Process(running.pid).send_signal(signal.SIGTERM)
    deadline = time.monotonic() + DOWN_S
    # Its lock tells, not its process id: nobody may ever reap an orphan.
    while read_state(root) is not None:
        if time.monotonic() > deadline:
            raise DriftError(f"The stack (process {running.pid}) did not end within {DOWN_S:.0f} s.")
        time.sleep(POLL_S)
    print(json.dumps({"stopped": running.pid})) if as_json else out.print("Stopped.")


def status(as_json: Json = False) -> None:
    """Show the local stack; exit code 0 only when all of it is healthy.

    Example: drift status
    """
    running = read_state(load_settings(LocalSettings).stack_root.resolve())
    if running is None:
        print("null") if as_json else out.print("No stack runs here; start it with `drift up`.")
    else:
        _show_state(running, as_json)
    if running is None or not running.healthy:
        raise typer.Exit(1)


def demo(as_json: Json = False) -> None:
    """Train a small model to get better at trying again, start to end, on this machine.

    Example: drift demo
    """
    from cli.demo import run_demo

    ended = run(run_demo(load_settings(LocalSettings), err if as_json else out))
    if as_json:
        print(ended.model_dump_json())


async def _stay_up(settings: LocalSettings, model: str, said: Console, as_json: bool) -> None:
    async with run_stack(settings, model, HealthPrinter(said)) as stack:
        said.print(f"Everything is healthy: {stack.rollout_url}. Ctrl-C stops it.", highlight=False)
        if as_json:
            print(stack.model_dump_json(), flush=True)
        await asyncio.Event().wait()


def _await_up(process: "subprocess.Popen[bytes]", root: Path, log: Path, said: Console) -> None:
    """Show the services on their way to health; raises `ServiceFailed` when the stack ends or is late."""
    printed = 0
    deadline = time.monotonic() + UP_S
    while True:
        state, ended = read_state(root), process.poll()
        lines = log.read_text(errors="replace").splitlines(keepends=False)
        for line in lines[printed:]:
            said.print(line, highlight=False, markup=False)
        printed = len(lines)
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


def _show_state(state: StackState, as_json: bool) -> None:
    if as_json:
        print(state.model_dump_json())
        return
    table = Table("service", "health", "process", "restarts", "log")
    for service in state.services:
        good = service.health is Health.HEALTHY
        health = f"[green]{service.health}" if good else f"[yellow]{service.health}"
        table.add_row(service.name, health, str(service.pid or ""), str(service.restarts), str(service.log))
    out.print(table)
    out.print(f"Rollout service: {state.rollout_url} (supervisor: process {state.pid})", highlight=False)
