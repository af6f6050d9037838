"""What the restarts of one training know of each other: `attempt.json` in the training's folder.

It keeps a training that kills its trainer from being started for ever, the dtype the same over all restarts, and a
finished training from being done again where a crash came between its end and the task's.
"""

from pathlib import Path

from services.trainer.checkpoint import write_durably
from services.trainer.orders import Dtype
from shared.schema import Schema
from shared.training import TrainingStatus, TrainingTask


class Attempt(Schema):
    """The last attempt at a training."""

    task: TrainingTask
    dtype: Dtype | None = None
    """Chosen before the first step and kept, so that a resumed run computes as the first one did."""
    step: int = 0
    """The step that the last attempt began from."""
    count: int = 0
    """Attempts in a row from that step, without those that were asked to stop."""
    fault: str | None = None
    """What ended the last attempt, where rank 0 lived to write it."""
    outcome: TrainingStatus | None = None
    """The last status, once the training has succeeded."""

    def begin(self, step: int) -> "Attempt":
        """The next attempt, from a checkpoint after `step` steps."""
        return self.model_copy(update={"step": step, "count": self.count + 1 if self.step == step else 1})


def read_attempt(stage: Path, task: TrainingTask) -> Attempt:
    """The last attempt at this very task; a blank one where there was none."""
    path = stage / "attempt.json"
    attempt = Attempt.model_validate_json(path.read_bytes()) if path.exists() else None
    return attempt if attempt and attempt.task == task else Attempt(task=task)


def write_attempt(stage: Path, attempt: Attempt) -> None:
    """Replace what was written before."""
    stage.mkdir(parents=True, exist_ok=True)
    temporary = stage / "attempt.json.tmp"
    write_durably(temporary, attempt.model_dump_json())
    temporary.rename(stage / "attempt.json")
