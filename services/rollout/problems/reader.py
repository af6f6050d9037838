"""Reads the problems of a job's part in batches, each from where the caller says: a batch may be asked for again."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from services.rollout.problems.dataset import OnRow, read_problems
from shared.errors import DatasetError
from shared.job import DatasetSpec
from shared.trajectory import Problem


class Reader:
    """The problems of one dataset, `groups` of them: as many as were counted when the job began."""

    def __init__(self, dataset: DatasetSpec, data_root: Path, groups: int, on_row: OnRow) -> None:
        self.groups = groups
        self._dataset = dataset
        self._data_root = data_root
        self._on_row = on_row
        self._problems: Iterator[Problem] = iter(())
        self._next: int | None = None

    def read(self, first: int, most: int) -> list[Problem]:
        """At least one problem, from group `first` on.

        Raises `DatasetError` where there are fewer than were counted, lest the job wait for ever for the others.
        """
        if first != self._next:
            problems = read_problems(self._dataset, self._data_root, on_row=self._on_row)
            self._problems = islice(problems, first, self.groups)
        batch = list(islice(self._problems, most))
        if not batch:
            raise DatasetError(
                f"{self._dataset.name} has fewer problems than the {self.groups} that it had when the job began.",
                remedy="Leave a dataset as it is while a job needs it, and submit the job again.",
            )
        self._next = first + len(batch)
        return batch
