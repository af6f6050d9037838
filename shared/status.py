"""Where a job stands, as the API gives it."""

from enum import StrEnum

from shared.measures import Evaluation, RolloutSummary
from shared.schema import Schema
from shared.training import TrainingStatus


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Progress(Schema):
    """How far the current phase is."""

    phase: str
    """`evaluate`, `rollout`, `train` or `refresh`."""
    label: str
    """What exactly, e.g. `evaluate base on arc_easy_test.jsonl.gz`."""
    done: int
    total: int
    unit: str
    message: str | None = None
    """What the phase waits for, where it waits."""


class StepTime(Schema):
    """How long one step of the job's plan took, waiting and restarts included."""

    step: str
    """`prepare`, `evaluate`, `rollout` or `train`."""
    stage: int
    dataset: int
    seconds: float


class JobStatus(Schema):
    """The job as the API gives it."""

    id: str
    name: str
    state: State
    phase: str | None = None
    progress: Progress | None = None
    created: float
    """Unix time, seconds; as are the other times."""
    started: float | None = None
    finished: float | None = None
    model: str | None = None
    """Name that the engine serves."""
    base: str | None = None
    """Folder or hub name of the base policy's weights."""
    problems: list[int] = []
    """Rows of the job's dataset (0 without one) and of each evaluation set."""
    skipped_rows: list[int] = []
    """Bad rows that `on_bad_row: skip` left out, in the same order."""
    skipped_reasons: list[str] = []
    """What was wrong with the first few of them."""
    steps_done: int = 0
    """Steps of the job's plan that are finished; a restart goes on after these."""
    steps_total: int = 0
    step_started: float | None = None
    timings: list[StepTime] = []
    """Of the finished steps, in order."""
    evaluations: list[Evaluation] = []
    rollouts: list[RolloutSummary] = []
    trainings: list[TrainingStatus] = []
    checkpoint: str | None = None
    """The last exported folder."""
    dead_letters: int = 0
    """Stream entries that are no trajectory of this job, or whose group never became complete; kept with the reason."""
    error: str | None = None

    def evaluations_by_set(self) -> list[list[Evaluation]]:
        """The evaluations of each of the job's sets, in the order of policies; two sets may have the same name."""
        sets: dict[int, list[Evaluation]] = {}
        seen: dict[int, int] = {}
        for each in self.evaluations:
            place = seen.get(each.stage, 0)  # those of a stage are in the order of the job's sets
            seen[each.stage] = place + 1
            sets.setdefault(place, []).append(each)
        return list(sets.values())
