"""A job as the user asks for it; immutable."""

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from shared.returns import ReturnSpec
from shared.schema import Schema
from shared.training import TrainSpec
from shared.trajectory import Phase, Problem

MAX_INLINE = 10_000
"""Most problems that a request may carry inline; more belong in a file under the data root."""

MAX_TEMPLATE = 1 << 16
"""Most characters of a prompt template."""


AnswerForm = Literal["plain", "after_hashes", "boxed", "after_the_answer_is", "index", "label", "first_option"]
"""Where the gold answer stands in its column: the column itself; after the last `####` (GSM8K); in the last `\\boxed`
(MATH); after the last `The answer is:` (MetaMathQA); the option's index from 0 (MMLU), or its label where the options
are {text, label} (ARC), becomes a letter; or the column is the correct option's text and `choices` the wrong ones',
shuffled by the row's id or number (GPQA)."""

Columns = dict[Literal["id", "kind", "problem", "answer", "choices"], str | list[str]]
"""Field of a problem -> where the source keeps it."""


class DatasetSpec(Schema):
    """Problems from one source: a file under the data root, a Hugging Face dataset, a preset, inline, or a mix."""

    path: str | None = None
    """File under DRIFT_DATA_ROOT: .jsonl, .jsonl.gz, .csv or .parquet, one problem a row."""
    hub: str | None = None
    """Hugging Face dataset, `owner/name`, with `config` and `split`."""
    preset: Annotated[str, Field(max_length=64)] | None = None
    """One of the paper's sets by name, e.g. `arc_easy`; `GET /v1/presets` lists them."""
    problems: Annotated[list[Problem], Field(min_length=1, max_length=MAX_INLINE)] | None = None
    mix: Annotated[list["DatasetSpec"], Field(min_length=2, max_length=16)] | None = None
    """Several sets, one after the other; each may have a `limit` and a shuffle of its own."""
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
    answer_form: AnswerForm = "plain"
    """Where the gold answer stands in its column, and how it becomes a letter."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """Refuse the job for a bad row, or leave such rows out and count them."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = ("path", "hub", "preset", "problems", "mix")
        named = [name for name in sources if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(f'`{name}`' for name in sources)}; got {', '.join(named) or 'none'}"
            )
        if self.mix and (self.columns or self.on_bad_row != "fail" or any(part.mix for part in self.mix)):
            raise ValueError("a `mix` is of plain sets, each with its own `columns` and `on_bad_row`")
        if self.config is not None and self.hub is None:
            raise ValueError("`config` belongs to `hub`")
        if self.split is not None and self.hub is None and self.preset is None:
            raise ValueError("`split` belongs to `hub` or `preset`")
        if self.columns and self.preset is not None:
            raise ValueError("a preset knows its columns: leave out `columns`")
        if self.answer_form != "plain":
            self._check_answer_form()
        return self

    def _check_answer_form(self) -> None:
        if self.path is None and self.hub is None:
            raise ValueError("`answer_form` belongs to `path` or `hub`")
        single = ("answer", "choices") if self.answer_form == "label" else ("answer",)
        if several := [field for field in single if isinstance(self.columns.get(field), list)]:
            raise ValueError(f"`answer_form` {self.answer_form} wants one column for `{several[0]}`")

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
        if self.mix:
            return " + ".join(part.name for part in self.mix)
        return self.path or (f"{self.hub}:{self.config or 'all'}/{self.split or 'train'}" if self.hub else "inline")


class ProtocolSpec(Schema):
    """How the episode runs."""

    template: Annotated[str, Field(min_length=1, max_length=MAX_TEMPLATE)] = "auto"
    """Name of a built-in prompt template or of a file NAME.jinja in DRIFT_TEMPLATES_ROOT, or Jinja2 text (contains
    `{{`); `auto` chooses by the problem's kind. A file's text becomes part of the job as it is submitted."""
    evaluation_template: Annotated[str, Field(min_length=1, max_length=MAX_TEMPLATE)] | None = None
    """The same for evaluations; absent takes `template`. The paper's differ: `paper` and `paper_evaluation`."""
    feedback: Annotated[str, Field(min_length=1, max_length=4096)] = "Incorrect. Please think again."
    max_turns: Annotated[int, Field(ge=1, le=64)] = 5
    grading: Literal["own", "string"] = "own"
    """Each problem by its own kind, or all by the string equality of the authors' scripts."""

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
