"""What all commands share: the consoles, the ways to the services, and how a run ends."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from cli.client import JobClient
from cli.settings import LocalSettings
from shared.errors import DriftError, SettingsError, SpecError
from shared.settings import load_settings

out = Console()
err = Console(stderr=True)
T = TypeVar("T")

EXIT_CODES = (
    "Exit codes: 0 done; 1 refused, failed, or not healthy; 2 a mistake in what was typed, in a setting or in a job, "
    "which the message names; 3 `drift verify` could not grade; 130 Ctrl-C; 143 ended by a signal. With --json, "
    "standard output carries JSON alone; everything for people goes to standard error."
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Url = Annotated[str | None, typer.Option(help="The rollout service; default: this machine's, DRIFT_ROLLOUT_PORT.")]
Job = Annotated[str, typer.Argument(help="The job's id, as `drift submit` and `drift jobs` print it.")]


class Commands(typer.Typer):
    """Turns this project's errors into one clear message and an exit code, see `EXIT_CODES`."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        try:
            return super().__call__(*args, **kwargs)
        except DriftError as error:
            err.print(f"[red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            sys.exit(2 if isinstance(error, SettingsError | SpecError) or error.status in (404, 422) else 1)
        except OSError as error:
            if error.filename is None:
                raise
            # A folder that is not there, a file that may not be written.
            err.print(
                f"[red]Error:[/] {escape(f'{error.filename}: {error.strerror}.')}", highlight=False, soft_wrap=True
            )
            sys.exit(2)


def open_jobs(url: str | None) -> AbstractAsyncContextManager[JobClient]:
    """The job API of this machine's service, or of the one at `url`."""
    settings = load_settings(LocalSettings)
    key = settings.api_keys[0].get_secret_value() if settings.api_keys else None
    return JobClient.open(url or settings.rollout_url, key)


def run(main: Coroutine[object, object, T]) -> T:
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
