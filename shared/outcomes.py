"""What became of a part's trajectories, as columns: enough for every measure and weight, without their tokens."""

from typing import Self

from pydantic import model_validator

from shared.schema import Schema
from shared.trajectory import Ending


class PartOutcomes(Schema):
    """One row a trajectory, by group and k; every column has length n."""

    job: str
    part: str
    """`rollout-STAGE` or `evaluate-STAGE-DATASET`."""
    policy: str
    group: list[int]
    k: list[int]
    group_size: list[int]
    ending: list[Ending]
    turns: list[int]
    """T."""
    answered: list[int]
    """A: turns with a parsed answer."""
    distinct: list[int]
    """U: distinct parsed answers."""

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        columns = (self.k, self.group_size, self.ending, self.turns, self.answered, self.distinct)
        if any(len(column) != len(self.group) for column in columns):
            raise ValueError("the columns differ in length")
        return self
