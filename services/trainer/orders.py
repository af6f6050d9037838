"""What rank 0 tells all ranks to do. Every rank obeys the same orders in the same sequence, rank 0 included.

Orders are JSON, never pickles. A rank that has nothing to do hears `Idle` now and then, so that a wait
beyond the deadline of a collective always means that something is wrong.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from services.trainer.packing import MicroBatch
from shared.schema import Schema
from shared.training import TrainingTask

Dtype = Literal["float32", "bfloat16"]


class Idle(Schema):
    """Nothing to do yet."""

    kind: Literal["idle"] = "idle"


class Begin(Schema):
    """Load the model, and the checkpoint where one is named."""

    kind: Literal["begin"] = "begin"
    task: TrainingTask
    dtype: Dtype | None
    """None: measure, and agree on the faster one."""
    checkpoint: str | None
    micro_batch_tokens: int = 1024
    """Most tokens of a forward pass, for the estimate of memory."""
    compile: bool = False
    """Whether layers are compiled."""


class Step(Schema):
    """One optimiser step."""

    kind: Literal["step"] = "step"
    step: int
    """Counts from 1."""
    learning_rate: float
    shares: list[list[MicroBatch]]
    """Micro-batches of each rank, the same number for all."""
    norm_limit: float | None = None
    """A gradient norm beyond it has exploded: the step changes nothing. None: any finite norm is taken."""


class Measure(Schema):
    """The weighted loss of held-out sequences; changes nothing."""

    kind: Literal["measure"] = "measure"
    shares: list[list[MicroBatch]]


class Save(Schema):
    """Write a checkpoint of the state as it is now, while the training goes on."""

    kind: Literal["save"] = "save"
    cursor: str
    """The cursor, JSON; see `checkpoint`."""
    folder: str
    wait: bool = False
    """Do not go on before it is durable."""


class Export(Schema):
    """Write the weights as a Hugging Face folder."""

    kind: Literal["export"] = "export"
    folder: str
    card: str
    """The model card, Markdown."""


class End(Schema):
    """Forget the model."""

    kind: Literal["end"] = "end"


class Quit(Schema):
    """Leave the process."""

    kind: Literal["quit"] = "quit"


Order = Annotated[Idle | Begin | Step | Measure | Save | Export | End | Quit, Field(discriminator="kind")]
ORDER: TypeAdapter[Order] = TypeAdapter(Order)
