"""The main job, start to end: evaluate the base model, roll out, train, reload the engine, evaluate again, report.

Everything goes over the rollout service's HTTP API, as any user's job does.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from rich.console import Console

from cli.client import JobClient
from cli.local_stack import StackState, read_state, run_stack
from cli.model import ensure_model
from cli.ports import choose_free
from cli.problems import Problems, choose_problems
from cli.progress import HealthPrinter, JobProgress, follow
from cli.report import build_table, compare, unpack_report
from cli.settings import LocalSettings
from shared.errors import DriftError
from shared.job import JobSpec, ProtocolSpec, SamplingSpec
from shared.status import JobStatus, State
from shared.training import TrainSpec

NAME = "demo"
TRAIN_PROBLEMS = 128
TEST_PROBLEMS = 256
PROTOCOL = ProtocolSpec(template="auto", max_turns=5)
SAMPLING = SamplingSpec(trajectories=8, temperature=1.0, max_tokens=8)
TRAIN = TrainSpec(epochs=1, batch_size=32, learning_rate=5e-5)


class DemoFailed(DriftError):
    """The job did not succeed."""


def make_job(problems: Problems) -> JobSpec:
    """The demo's one job."""
    return JobSpec(
        name=NAME, dataset=problems.train, protocol=PROTOCOL, sampling=SAMPLING, train=TRAIN, evaluate=[problems.test]
    )


async def run_demo(settings: LocalSettings, console: Console) -> JobStatus:
    """Run it all; the job as it ended. Raises `DriftError` where anything fails.

    What it starts is gone when it returns or raises.
    """
    begun = time.monotonic()
    problems = choose_problems(settings.problems_root, TRAIN_PROBLEMS, TEST_PROBLEMS)
    console.print(f"Problems: {problems.origin}.", highlight=False)
    async with _stack(settings, console) as (stack, logs):
        key = settings.api_keys[0].get_secret_value() if settings.api_keys else None
        async with JobClient.open(stack.rollout_url, key) as jobs:
            await _cancel_unfinished(jobs, console)
            job = await jobs.submit(make_job(problems))
            console.print(f"Job {job}: {stack.rollout_url}/v1/jobs/{job}", highlight=False)
            try:
                with JobProgress(console) as shown:
                    status = await follow(jobs, job, shown)
            except BaseException:
                console.print(f"Job {job} did not end and is cancelled. Logs: {logs}", highlight=False)
                with suppress(DriftError):  # left alone, it would go on with the next stack
                    await jobs.cancel(job)
                raise
            report, *_ = unpack_report(await jobs.report(job), settings.runs_root / job / "report")
    _conclude(status, report, logs, time.monotonic() - begun, console)
    return status


def _conclude(status: JobStatus, report: Path, logs: Path, seconds: float, console: Console) -> None:
    comparisons = compare(status)
    for comparison in comparisons:
        console.print(build_table(comparison))
    console.print(f"Report: {report}, its figures and numbers beside it.", highlight=False)
    if status.state is not State.SUCCEEDED:
        raise DemoFailed(
            f"Job {status.id} {status.state}: {status.error or 'no reason given'}", remedy=f"See the logs in {logs}."
        )
    base, trained = comparisons[0].evaluations[0].multi_at[-1], comparisons[0].evaluations[-1].multi_at[-1]
    turns = len(comparisons[0].evaluations[0].multi_at)
    console.print(
        f"multi@{turns} {100 * base:.1f} % -> {100 * trained:.1f} % ({100 * (trained - base):+.1f} points)"
        f" in {seconds / 60:.1f} minutes.",
        style="bold",
        highlight=False,
    )


@asynccontextmanager
async def _stack(settings: LocalSettings, console: Console) -> AsyncIterator[tuple[StackState, Path]]:
    """The stack that runs already, else a new one on free ports while the body runs; and its folder of logs."""
    running = read_state(settings.stack_root.resolve())
    if running is not None:
        if not running.healthy:
            raise DemoFailed("The stack that runs is not healthy.", remedy="See `drift status`; try `drift down`.")
        console.print(f"Using the stack that runs (process {running.pid}).", highlight=False)
        yield running, settings.logs
        return
    model = settings.model or str(ensure_model(settings.stack_root / "model", console.print))
    wanted = {f"{name}_port": getattr(settings, f"{name}_port") for name in ("redis", "engine", "verifier", "rollout")}
    settings = settings.model_copy(update=choose_free(wanted))
    console.print(f"Starting the stack on {settings.rollout_url}; logs in {settings.logs}.", highlight=False)
    async with run_stack(settings, model, HealthPrinter(console)) as stack:
        yield stack, settings.logs


async def _cancel_unfinished(jobs: JobClient, console: Console) -> None:
    """A demo that was killed left its job; this one is not to wait for it. Other jobs go first, which is said."""
    for job in await jobs.list():
        if job.name == NAME and not job.state.final:
            console.print(f"Cancelling the unfinished demo job {job.id}.", highlight=False)
            await jobs.cancel(job.id)
        elif job.state in (State.QUEUED, State.RUNNING):
            console.print(f"Job {job.id} ({job.name}) goes first; `drift cancel {job.id}` ends it.", highlight=False)
