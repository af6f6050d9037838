"""A trajectory: what one episode leaves behind. One entry of the stream, one row of the dataset."""

from typing import Annotated, Literal, cast, get_args

from pydantic import Field, model_validator

from shared.grading import Kind, Method, Several, Text, Verdict
from shared.schema import Schema

Phase = Literal["rollout", "evaluate"]

Ending = Literal["solved", "max_turns", "context", "ungraded", "failed"]
"""Why the episode ended. `ungraded`: the verifier could not decide a turn; `failed`: the engine could not give one.
Both spoil their group's weights: a missing sibling changes Z for all of them."""

ENDINGS: tuple[Ending, ...] = get_args(Ending)


Int32 = Annotated[int, Field(ge=0, lt=1 << 31)]
"""What the dataset's columns of this kind can hold."""


class Problem(Schema):
    """One row of a dataset."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    kind: Kind = "math"
    """Absent: `choice` where there are choices, else `math`."""
    problem: Annotated[str, Field(min_length=1, max_length=1 << 18)]
    answer: Text | Several
    choices: Annotated[list[Text], Field(min_length=2, max_length=26)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _infer_kind(cls, row: object) -> object:
        if not isinstance(row, dict):
            return row
        fields = cast(dict[str, object], row)
        return {"kind": "choice", **fields} if fields.get("choices") else fields


class Turn(Schema):
    """One answer of the policy and its verdict. Token ids are the engine's own, never re-tokenised text."""

    prompt_token_ids: list[Int32]
    """The whole context that the engine saw, this turn's generation prompt included."""
    token_ids: list[Int32]
    """The sampled tokens; the end-of-turn token is the last one exactly when `finish_reason` is `stop`."""
    text: str
    finish_reason: str
    verdict: Verdict
    answer: str | None = None
    """The extracted answer; None where none could be parsed."""
    normal_form: str | None = None
    method: Method | None = None


class Trajectory(Schema):
    """The k-th of `group_size` episodes on one problem, under one policy."""

    schema_version: Literal[1] = 1
    job: str
    phase: Phase
    stage: Int32
    """Rollout refresh stage: the number of trainings behind the policy."""
    dataset: Int32 = 0
    """Which of the job's evaluation sets; 0 for rollouts."""
    policy: str
    """Name of the policy's version: `base`, or the name of the stage whose checkpoint it is."""
    group: Annotated[int, Field(ge=0, lt=1 << 63)]
    k: Int32
    group_size: Annotated[int, Field(ge=1, lt=1 << 31)]
    problem: Problem
    turns: list[Turn]
    ending: Ending
    reason: str | None = None
    """What went wrong, for `failed`, `ungraded` and `context`."""
    engine: str
    model: str

    @property
    def id(self) -> str:
        """Deterministic: an episode that is repeated after a crash has the id of the first try."""
        return f"{self.job}:{self.part}:{self.group}:{self.k}"

    @property
    def part(self) -> str:
        """Which part of the job it belongs to, as in the dataset's folder names."""
        return part_name(self.phase, self.stage, self.dataset)

    @property
    def success(self) -> bool:
        return self.ending == "solved"

    @property
    def usable(self) -> bool:
        """Whether the episode ran to an end that the method knows."""
        return self.ending not in ("ungraded", "failed")


def part_name(phase: Phase, stage: int, dataset: int = 0) -> str:
    """The name of one rollout or evaluation part of a job, e.g. `rollout-0`, `evaluate-1-0`."""
    return f"rollout-{stage}" if phase == "rollout" else f"evaluate-{stage}-{dataset}"
