"""A training: how the user wants it, the task that the trainer gets, and what the trainer says of it."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.measures import Composition
from shared.returns import ReturnSpec
from shared.schema import Schema

Objective = Literal["drift", "uniform", "star", "single_turn", "all_turns"]


class LoraSpec(Schema):
    """Low-rank adapters in place of full weights, through peft."""

    r: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank."""
    alpha: Annotated[int, Field(ge=1)] = 32
    """The adapter counts alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1, max_length=64)] = "all-linear"
    """Names of the layers that get an adapter, e.g. `["q_proj", "v_proj"]`; all but the output layer by default."""
    merge: bool = False
    """Export full weights with the adapter added in, for engines that serve no adapters; else a PEFT adapter folder."""


class TrainSpec(Schema):
    """Weighted SFT (paper eqs. 14, 15; optimiser of paper D.2)."""

    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps, over as many epochs as they need; the paper's 200 when neither `steps` nor `epochs` is given."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the trajectories that may carry weight, skipped ones included; rounded up to whole steps."""
    streaming: bool = False
    """Train while the rollout goes on. The first epoch then follows the order of recording; a later one waits for the
    end of the data, that is of the rollout. The training ends after `steps`, wherever that falls."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """|B|: trajectories a step, whatever the ranks and micro-batches."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-6
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps with linear warm-up; constant afterwards."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    explosion_factor: Annotated[float, Field(gt=1)] | None = 100.0
    """A gradient norm beyond this multiple of the median of the last 32 steps', and beyond `max_grad_norm`, has
    exploded: the step is not taken and the training fails. Looked at from the ninth step on; null: never."""
    objective: Objective = "drift"
    all_wrong: Literal["keep", "drop"] = "keep"
    """Groups without a success: kept as in the paper, or dropped."""
    epsilon: Annotated[float, Field(ge=0, lt=1)] = 1e-3
    """Trajectories whose weights sum to less than this share of their group's are skipped; 0 skips nothing."""
    weighting: Literal["loss", "resampling"] = "loss"
    """How a weight acts: it multiplies its trajectory's loss, or it is how often an epoch draws the trajectory, in
    expectation (systematic resampling: no bias, and nothing is skipped)."""
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the problems, chosen by a hash of their ids, whose groups are never trained on; their weighted loss
    is measured before the first step, every `held_out_every` steps and at the end."""
    held_out_every: Annotated[int, Field(ge=1)] = 10
    lora: LoraSpec | None = None
    """Train adapters only; absent trains all weights."""
    max_length: Annotated[int, Field(ge=16)] = 8192
    """Longest context plus response; longer contexts lose their earliest turns."""
    seed: int = 0

    @property
    def skips(self) -> bool:
        """Whether it may leave out trajectories of little weight."""
        return self.objective in ("drift", "all_turns") and self.weighting == "loss" and self.epsilon > 0

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give `steps` or `epochs`, not both")
        return self

    @model_validator(mode="after")
    def _streamable(self) -> Self:
        if self.streaming:
            if self.epochs is not None:
                raise ValueError("`streaming` needs `steps` instead of `epochs`: the warm-up's length must be known")
            if self.held_out or self.weighting == "resampling":
                raise ValueError("`streaming` goes with neither `held_out` nor `resampling`: both need all the data")
        return self


class TrainingState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TrainingTask(Schema):
    """One entry of the stream of trainings: everything that the trainer has to know."""

    job: str
    stage: int
    model: str
    """Folder or hub name of the weights to begin with."""
    tokenizer: str
    """Folder or hub name whose tokenizer, chat template and configuration the export carries."""
    groups: int
    group_size: int
    train: TrainSpec
    returns: ReturnSpec
    rollouts_of: str | None = None
    """Job whose recorded rollouts are trained on; absent is `job` itself."""

    @property
    def source(self) -> str:
        """The job whose dataset holds the trajectories."""
        return self.rollouts_of or self.job


class TrainingStatus(Schema):
    """What the trainer says of one training."""

    state: TrainingState
    stage: int
    step: int = 0
    steps: int = 0
    loss: float | None = None
    """The weighted loss of the last step (paper eqs. 14, 15)."""
    nll: float | None = None
    """Mean -log p of its supervised tokens, whatever their weight."""
    grad_norm: float | None = None
    """Before clipping."""
    learning_rate: float | None = None
    tokens_per_s: float | None = None
    """Trained tokens (context and response) a second."""
    mfu: float | None = None
    """Model FLOPs utilisation: share of the ranks' peak rate that the sequences' own computation was."""
    trajectories: int = 0
    """Trajectories in the dataset that may carry weight."""
    skipped: int = 0
    skipped_mass: float = 0.0
    """Share of all weight that the skipped trajectories carry: an epoch's mean gradient is off by at most this
    share of the largest gradient of a single trajectory."""
    skipped_token_share: float = 0.0
    truncated: int = 0
    """Trained trajectories whose context lost its earliest turns to `max_length`."""
    too_long: int = 0
    """Trajectories left out, since their response does not fit into `max_length` even so."""
    effective_sample_size: float | None = None
    """Mean over groups."""
    composition: Composition | None = None
    losses: list[float] = []
    """Loss of every step so far."""
    held_out_groups: int = 0
    held_out_losses: list[tuple[int, float]] = []
    """(steps done, weighted loss of the held-out groups)."""
    checkpoint: str | None = None
    """The exported Hugging Face folder, once it is there."""
    message: str | None = None
    """What the training waits for, where it waits."""
    checkpoint_fault: str | None = None
    """Why the last attempt to save the training's state failed; the training goes on, and the state before is kept."""
    error: str | None = None
