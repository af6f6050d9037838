"""A job: what the user asks for (immutable) and what the service says of it."""

from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from shared.returns import ReturnSpec
from shared.schema import Schema
from shared.trajectory import Phase, Problem

MAX_INLINE = 10_000
"""Most problems that a request may carry inline; more belong in a file under the data root."""


Columns = dict[Literal["id", "kind", "problem", "answer", "choices"], str | list[str]]
"""Field of a problem -> where the source keeps it."""


class DatasetSpec(Schema):
    """Problems from exactly one source: a file under the data root, a Hugging Face dataset, a preset, or inline."""

    path: str | None = None
    """File under DRIFT_DATA_ROOT: .jsonl, .jsonl.gz, .csv or .parquet, one problem a row."""
    hub: str | None = None
    """Hugging Face dataset, `owner/name`, with `config` and `split`."""
    preset: Annotated[str, Field(max_length=64)] | None = None
    """One of the paper's sets by name, e.g. `arc_easy`; `GET /v1/presets` lists them."""
    problems: Annotated[list[Problem], Field(min_length=1, max_length=MAX_INLINE)] | None = None
    config: Annotated[str, Field(max_length=128)] | None = None
    """Configuration of the `hub` dataset; absent takes all of them."""
    split: Annotated[str, Field(max_length=128)] | None = None
    """Split of the `hub` dataset, or of the preset; absent takes `train`, or the preset's usual one."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Take this many problems, after shuffling."""
    shuffle_seed: int | None = None
    """Shuffle with this seed first; absent keeps the source's order."""
    columns: Columns = {}
    """Where a problem's fields are called otherwise: field -> column; `choices` may name a column for each option."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """Refuse the job for a bad row, or leave such rows out and count them."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = [name for name in ("path", "hub", "preset", "problems") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                f"give exactly one of `path`, `hub`, `preset`, `problems`; got {', '.join(named) or 'none'}"
            )
        if self.config is not None and self.hub is None:
            raise ValueError("`config` belongs to `hub`")
        if self.split is not None and self.hub is None and self.preset is None:
            raise ValueError("`split` belongs to `hub` or `preset`")
        if self.columns and self.preset is not None:
            raise ValueError("a preset knows its columns: leave out `columns`")
        return self

    @field_validator("path")
    @classmethod
    def _confined(cls, path: str | None) -> str | None:
        if path is not None and (PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts):
            raise ValueError("name a file relative to DRIFT_DATA_ROOT, without `..`")
        return path

    @property
    def name(self) -> str:
        """How reports call this set."""
        if self.preset:
            return f"{self.preset}/{self.split}" if self.split else self.preset
        return self.path or (f"{self.hub}:{self.config or 'all'}/{self.split or 'train'}" if self.hub else "inline")


class ProtocolSpec(Schema):
    """How the episode runs."""

    template: Annotated[str, Field(min_length=1, max_length=1 << 16)] = "auto"
    """Name of a built-in prompt template, or Jinja2 text (contains `{{`); `auto` chooses by the problem's kind."""
    evaluation_template: Annotated[str, Field(min_length=1, max_length=1 << 16)] | None = None
    """The same for evaluations; absent takes `template`. The paper's differ: `paper` and `paper_evaluation`."""
    feedback: Annotated[str, Field(min_length=1, max_length=4096)] = "Incorrect. Please think again."
    max_turns: Annotated[int, Field(ge=1, le=64)] = 5

    def template_for(self, phase: Phase) -> str:
        """The template that opens the episodes of a phase."""
        return self.evaluation_template or self.template if phase == "evaluate" else self.template


class SamplingSpec(Schema):
    """How the reference policy is sampled; everything not named here is neutral."""

    trajectories: Annotated[int, Field(ge=1, le=1024)] = 16
    """N: trajectories a problem."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] = 512
    """Most new tokens a turn."""


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


class RefreshSpec(Schema):
    """Rollout refresh (paper D.5)."""

    stages: Annotated[int, Field(ge=1, le=100)] = 1
    """Rollouts and trainings in turn; the steps are split evenly over the stages. 1: no refresh."""


JobId = Annotated[str, Field(pattern=r"^\d{8}-\d{6}-[0-9a-f]{6}$")]


class PolicySpec(Schema):
    """A policy that another job has trained."""

    job: JobId
    stage: Annotated[int, Field(ge=1)] | None = None
    """Its trainings so far; absent takes the last one."""


class JobSpec(Schema):
    """What to do: roll out, and if asked train and evaluate."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w .:@+-]+$")] = "job"
    dataset: DatasetSpec | None = None
    """The problems to roll out."""
    rollouts_of: JobId | None = None
    """Instead of `dataset`: train on what this job has rolled out (its first stage), without new rollouts."""
    start_from: PolicySpec | None = None
    """The policy to begin with; absent is the one that the engines were started with."""
    protocol: ProtocolSpec = ProtocolSpec()
    sampling: SamplingSpec = SamplingSpec()
    returns: ReturnSpec = ReturnSpec()
    train: TrainSpec | None = None
    refresh: RefreshSpec = RefreshSpec()
    evaluate: Annotated[list[DatasetSpec], Field(max_length=16)] = []

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.rollouts_of is not None:
            self._check_reuse()
        elif self.dataset is None and (self.train is not None or not self.evaluate):
            raise ValueError("`dataset` is missing: name the problems to roll out")
        return self

    def _check_reuse(self) -> None:
        if self.dataset is not None:
            raise ValueError("give `dataset` or `rollouts_of`, not both")
        if self.train is None:
            raise ValueError("`rollouts_of` is there to train on: give `train`")
        if self.refresh.stages > 1:
            raise ValueError("`rollouts_of` has the rollouts of one policy: leave out `refresh`")
        if self.start_from is not None:
            raise ValueError("`rollouts_of` begins with the policy that rolled out: leave out `start_from`")


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


class Evaluation(Schema):
    """Greedy episodes of one policy on one dataset (paper 5.1, 5.4, D.8)."""

    dataset: str
    policy: str
    stage: int
    n: int
    """Problems counted."""
    ungraded: int
    """Problems left out, since the verifier or the engine failed on them."""
    multi_at: list[float]
    """multi@k for k = 1..max_turns: share of problems solved within k turns."""
    correction_rate: float
    """Share of the problems wrong at turn 1 that a later turn solves."""
    correction_rate_at: list[float]
    """By turn: newly correct at t / wrong after t-1; the first is multi@1."""
    solved_rate_at: list[float]
    """By turn: solved by t / solved by the last turn."""
    unique_answers: float
    """Mean over problems with a parsed answer of distinct answers / answers (U/A)."""
    distinct_answers: float
    """Mean number of distinct answers, over all problems."""
    distinct_answers_wrong: float
    """The same over the problems never solved."""
    unparsable: float
    """Share of turns without a parsed answer."""
    interval: list[list[float]]
    """95 % bootstrap interval [low, high] of each multi@k."""


class Composition(Schema):
    """Groups of a rollout by outcome (paper D.9)."""

    complete: int = 0
    all_correct: int = 0
    all_wrong: int = 0
    mixed: int = 0
    spoiled: int = 0
    """Groups with an ungraded or failed trajectory; they carry no weights."""


class StepTime(Schema):
    """How long one step of the job's plan took, waiting and restarts included."""

    step: str
    """`prepare`, `evaluate`, `rollout` or `train`."""
    stage: int
    dataset: int
    seconds: float


class RolloutSummary(Schema):
    """Sums over one stage's rollouts."""

    stage: int
    policy: str
    trajectories: int
    ungraded: int
    failed: int
    multi_at: list[float]
    turns: int
    generated_tokens: int
    verdicts: dict[str, int]
    seconds: float
    composition: Composition = Composition()


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
    error: str | None = None
