"""Carries out a study's tasks over the rollout service's API, one job after the other.

Killed at any moment and started again, it goes on where it was: finished tasks are in the ledger, a job that was
submitted is followed, and one that was submitted and not yet noted is found again by its idempotency key. A task whose
job has failed or was cancelled is submitted anew at the next start.
"""

from collections.abc import Sequence
from http import HTTPStatus
from pathlib import PurePath

from rich.console import Console
from rich.markup import escape
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_exponential

from cli.client import ApiError, JobClient
from cli.progress import SILENCE_S, JobProgress, follow
from cli.study.ledger import Ledger, TaskRecord
from cli.study.plan import Task, name_job
from cli.study.study_file import Study
from shared.errors import DriftError, Unavailable
from shared.outcomes import PartOutcomes
from shared.status import JobStatus, State
from shared.trajectory import part_name

_patiently = retry(
    retry=retry_if_exception_type(Unavailable),
    wait=wait_exponential(multiplier=0.5, max=5),
    stop=stop_after_delay(SILENCE_S),
    reraise=True,
)
"""A service that restarts is waited for; whatever is asked may be asked again."""


class StudyFailed(DriftError):
    """A job of the study did not succeed; what is done is kept."""


async def carry_out(study: Study, tasks: Sequence[Task], ledger: Ledger, jobs: JobClient, console: Console) -> None:
    """Do what has not been done; raises `StudyFailed` for the first job that does not succeed."""
    await jobs.list(1)  # a service that was never there is not waited for
    for number, task in enumerate(tasks, 1):
        if ledger.has(task.key):
            continue
        job = await _find_or_submit(study, task, ledger, jobs)
        console.print(f"{number}/{len(tasks)} {escape(task.label)}: job {job}", highlight=False)
        with JobProgress(console) as shown:
            status = await follow(jobs, job, shown)
        _check(study, task, status)
        ledger.write(TaskRecord(key=task.key, label=task.label, status=status, outcomes=await _fetch(jobs, job, task)))


@_patiently
async def _find_or_submit(study: Study, task: Task, ledger: Ledger, jobs: JobClient) -> str:
    """The job of a task: the one that is noted unless it has failed, else a new one."""
    known = ledger.job(task.key)
    if known is not None and await _is_good(jobs, known):
        return known
    spec = task.to_job({needed.key: _job_of(needed, ledger) for needed in task.needs})
    spec = spec.model_copy(update={"name": name_job(study, task)})
    job = await jobs.submit(spec, f"study {study.name}{ledger.replica} {task.key} after {known or 'nothing'}")
    ledger.note_job(task.key, job)
    return job


def _job_of(task: Task, ledger: Ledger) -> str:
    job = ledger.job(task.key)
    assert job is not None, "a task comes after those that it needs"
    return job


async def _is_good(jobs: JobClient, job: str) -> bool:
    try:
        return (await jobs.get(job)).state not in (State.FAILED, State.CANCELLED)
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return False
        raise


def _check(study: Study, task: Task, status: JobStatus) -> None:
    if status.state is not State.SUCCEEDED:
        raise StudyFailed(
            f"Job {status.id} ({task.label}) {status.state}: {status.error or 'no reason given'}",
            remedy="Mend that and run the same command again: what is done is kept.",
        )
    if not task.needs and status.base and PurePath(status.base).name != PurePath(study.model).name:
        raise StudyFailed(
            f"The engines serve {status.base}, and the study {study.name} is about {study.model}.",
            remedy="Start the engines with the study's model (DRIFT_MODEL), or name theirs in the study.",
        )


@_patiently
async def _fetch(jobs: JobClient, job: str, task: Task) -> list[PartOutcomes]:
    match task.kind:
        case "rollout":
            return [await jobs.outcomes(job, part_name("rollout", 0))]
        case "evaluate":
            return [
                await jobs.outcomes(job, part_name("evaluate", 0, place)) for place in range(len(task.spec.evaluate))
            ]
        case "train":
            return []
