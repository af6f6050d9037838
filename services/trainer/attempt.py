"""What the restarts of one training know of each other: `attempt.json` in the training's folder.

It keeps a training that kills its trainer from being started for ever, the dtype the same over all restarts, and a
finished training from being done again where a crash came between its end and the task's.
"""

import errno
from pathlib import Path

from pydantic import ValidationError

from services.trainer.checkpoint import write_durably
from services.trainer.orders import Dtype
from shared.errors import Unavailable
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
    """The last attempt at this very task; a blank one where there was none or its note is damaged."""
    blank = Attempt(task=task)
    try:
        attempt = Attempt.model_validate_json((stage / "attempt.json").read_bytes())
    except (FileNotFoundError, ValidationError):  # what the disk has damaged must not end every trainer to come
        return blank
    return attempt if attempt.task == task else blank


def write_attempt(stage: Path, attempt: Attempt) -> None:
    """Replace what was written before; raises `Unavailable` where the disk is full: the task then stays pending."""
    temporary = stage / "attempt.json.tmp"
    try:
        stage.mkdir(parents=True, exist_ok=True)
        write_durably(temporary, attempt.model_dump_json())
        temporary.rename(stage / "attempt.json")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unavailable(
            f"{stage} cannot be written: {error}.",
            remedy="Make room and start the trainer again: it goes on from its last checkpoint.",
        ) from error
