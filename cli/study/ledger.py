"""A study's folder: which jobs carry out its tasks, and what the finished ones have measured.

`study.json` names the jobs, `records/KEY.json` holds one finished task each; both appear whole or not at all. A
report is a function of the records alone.
"""

import secrets
from collections.abc import Iterable
from pathlib import Path

from cli.study.environment import describe_environment, describe_hardware
from cli.study.plan import Task
from shared.errors import SpecError
from shared.outcomes import PartOutcomes
from shared.schema import Schema
from shared.status import JobStatus


class TaskRecord(Schema):
    """What a finished task has left behind."""

    key: str
    label: str
    status: JobStatus
    outcomes: list[PartOutcomes]
    """Of a rollout its one part, of an evaluation one part a dataset, of a training none."""


class _Jobs(Schema):
    study: str
    environment: dict[str, str]
    """Hardware and versions of the machine that began the study."""
    jobs: dict[str, str]
    """Task's key -> job's id."""
    replica: str = ""
    """Tells a second run of the same tasks from the first; empty for that one."""


class Ledger:
    """Reads and writes one study's folder."""

    def __init__(self, folder: Path, study: str) -> None:
        """Raises `SpecError` where the folder belongs to another study."""
        self.folder = folder
        self._file = folder / "study.json"
        if self._file.is_file():
            held = _Jobs.model_validate_json(self._file.read_bytes())
        else:
            held = _Jobs(study=study, environment=describe_environment(), jobs={})
        if held.study != study:
            raise SpecError(f"{folder} holds the study {held.study!r}.", remedy="Name another folder with --output.")
        self._jobs = held

    @property
    def environment(self) -> dict[str, str]:
        """As the folder says; a processor that it does not name is told where this is still the same machine."""
        held = self._jobs.environment
        here = {} if "processor" in held else describe_hardware()
        return here | held if here.get("machine") == held.get("machine") else held

    @property
    def replica(self) -> str:
        return self._jobs.replica

    def adopt(self, other: "Ledger", tasks: Iterable[Task]) -> None:
        """Begin a second run with what another folder has recorded of `tasks`.

        Raises `SpecError` where this folder has begun already, or the other lacks one of them.
        """
        if self._file.is_file():
            raise SpecError(
                f"{self.folder} holds a study already.",
                remedy="Name a new folder with --output, or go on with it without --rollouts-of.",
            )
        records: list[TaskRecord] = []
        for task in tasks:
            record = other.read(task.key)
            if record is None:
                raise SpecError(f"{other.folder} has no record of: {task.label}.", remedy="Finish that study first.")
            records.append(record)
        # The jobs come first and at once: a record that is then not written is fetched from its job.
        jobs = {record.key: record.status.id for record in records}
        self._jobs = self._jobs.model_copy(update={"replica": secrets.token_hex(4), "jobs": jobs})
        self._write(self._file, self._jobs)
        for record in records:
            self.write(record)

    def job(self, key: str) -> str | None:
        """The job that carries out a task, if there is one."""
        return self._jobs.jobs.get(key)

    def note_job(self, key: str, job: str) -> None:
        self._jobs = self._jobs.model_copy(update={"jobs": self._jobs.jobs | {key: job}})
        self._write(self._file, self._jobs)

    def read(self, key: str) -> TaskRecord | None:
        """What a task has measured; None while it has not ended well."""
        path = self._path(key)
        return TaskRecord.model_validate_json(path.read_bytes()) if path.is_file() else None

    def has(self, key: str) -> bool:
        return self._path(key).is_file()

    def write(self, record: TaskRecord) -> None:
        self._write(self._path(record.key), record)

    def _path(self, key: str) -> Path:
        return self.folder / "records" / f"{key}.json"

    def _write(self, path: Path, content: Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(content.model_dump_json(indent=1) + "\n")
        temporary.replace(path)
