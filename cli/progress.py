"""A job's phases as live progress bars; a line for each phase that is over, which also reads well in a log file.

A job is followed by its events: nothing is asked twice, and a connection that breaks goes on where it was.
"""

import asyncio
import time

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cli.client import Event, JobClient
from cli.process import Child, Health
from shared.errors import Unavailable
from shared.status import JobStatus, State
from shared.training import TrainingStatus

PAUSE_S = 0.5
"""Before a connection that has ended is opened again."""
NEWEST = f"{(1 << 64) - 1}-0"
"""Later than any event: a stream that goes on after it begins with what comes."""
SILENCE_S = 120.0
"""A rollout service that restarts is waited for so long."""


class JobProgress:
    """Shows one job; use as a context manager and call `update` with each new status."""

    def __init__(self, console: Console, *, shown: bool = True) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
            transient=True,
            refresh_per_second=2,
            disable=not shown,
        )
        self._shown = shown
        self._label: str | None = None
        self._bar: TaskID | None = None
        self._begun = 0.0
        self._total = ""

    def __enter__(self) -> "JobProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, status: JobStatus) -> None:
        """Show where the job stands now."""
        progress = None if status.state.final else status.progress
        label = progress.label if progress else None
        if label != self._label:
            if self._label is not None:
                self._finish(status)
            self._label, self._begun = label, time.monotonic()
            self._bar = None
        if progress is None:
            return
        if self._bar is None:
            self._bar = self._bars.add_task(progress.label, total=None, unit=progress.unit, note="")
        self._total = f"{progress.total} {progress.unit}"
        self._bars.update(
            self._bar,
            total=progress.total or None,
            completed=progress.done,
            unit=progress.unit,
            note=_note(status, progress.message),
        )

    def _finish(self, status: JobStatus) -> None:
        label, seconds = self._label or "", time.monotonic() - self._begun
        if self._bar is not None:
            self._bars.remove_task(self._bar)
        if not self._shown:
            return
        mark = "[red]✗" if status.state in (State.FAILED, State.CANCELLED) else "[green]✓"
        self._bars.console.print(f"{mark}[/] {escape(label)}: {self._total} in {seconds:.0f} s", highlight=False)


def _note(status: JobStatus, message: str | None) -> str:
    if message:
        return message
    if status.phase == "train" and status.trainings:
        return describe_training(status.trainings[-1])
    return ""


def describe_training(training: TrainingStatus) -> str:
    """Loss and speed in one line."""
    loss = f"loss {training.loss:.3f}" if training.loss is not None else ""
    speed = f"{training.tokens_per_s:.0f} tokens/s" if training.tokens_per_s else ""
    return " ".join(part for part in (loss, speed) if part)


async def follow(jobs: JobClient, job: str, shown: JobProgress) -> JobStatus:
    """Show the job until it ends; its last status. Raises `Unavailable` when the service stays silent."""
    status, last, heard = await jobs.get(job), NEWEST, time.monotonic()
    while not status.state.final:
        shown.update(status)
        try:
            async for event in jobs.events(job, last):
                heard, last = time.monotonic(), event.id or last
                status = _apply(event, status)
                shown.update(status)
            status = await jobs.get(job)  # events leave out what would repeat itself, and a stream may have missed some
            heard = time.monotonic()
        except Unavailable:
            if time.monotonic() - heard > SILENCE_S:
                raise
        if not status.state.final:
            await asyncio.sleep(PAUSE_S)
    shown.update(status)
    return status


def _apply(event: Event, status: JobStatus) -> JobStatus:
    match event.kind:
        case "status":
            return JobStatus.model_validate_json(event.data)
        case "training":
            training = TrainingStatus.model_validate_json(event.data)
            others = [each for each in status.trainings if each.stage != training.stage]
            return status.model_copy(update={"trainings": [*others, training]})
        case _:
            return status


class HealthPrinter:
    """Prints each service's way to health, and each restart."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = time.monotonic()

    def __call__(self, child: Child) -> None:
        seconds = time.monotonic() - self._begun
        name, device = child.service.name, child.service.note
        described = f"{name} ({device})" if device else name
        match child.health:
            case Health.HEALTHY:
                self._console.print(f"[green]✓[/] {described} is healthy after {seconds:.0f} s", highlight=False)
            case Health.RESTARTING:
                self._console.print(
                    f"[yellow]![/] {described} ended and is restarted; log: {escape(str(child.log))}", highlight=False
                )
            case Health.FAILED:
                self._console.print(f"[red]✗[/] {described} failed; log: {escape(str(child.log))}", highlight=False)
            case _:
                pass
