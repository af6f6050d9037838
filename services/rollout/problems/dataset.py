"""Reads problems: inline, from a file under the data root, or from the Hugging Face hub.

Rows are read as a stream. A bad row is refused before a token is generated, naming file, line and field, or
with `on_bad_row: skip` left out and counted.
"""

import json
import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from services.rollout.problems import files, hub
from shared.errors import DatasetError
from shared.job import Columns, DatasetSpec
from shared.trajectory import Problem

_FIELDS = frozenset(Problem.model_fields)


@dataclass
class Tally:
    """Rows of one reading."""

    problems: int = 0
    skipped: int = 0


def read_problems(spec: DatasetSpec, data_root: Path, tally: Tally | None = None) -> Iterator[Problem]:
    """The problems of `spec` in its order, shuffled and limited as it says; skipped rows are counted in `tally`.

    Raises `DatasetError` for the first bad row or a source that cannot be read.
    """
    tally = tally or Tally()
    if spec.shuffle_seed is None:
        return _take(_read_source(spec, data_root, tally), spec.limit)
    return _shuffle(spec, data_root, tally)


def count_problems(spec: DatasetSpec, data_root: Path) -> Tally:
    """How many problems `read_problems` gives; reads, and so checks, every row that it would give."""
    tally = Tally()
    tally.problems = sum(1 for _ in read_problems(spec, data_root, tally))
    if tally.problems == 0:
        raise DatasetError(
            f"{spec.name} has no problems ({tally.skipped} bad rows skipped).",
            remedy="Name a dataset with at least one good row.",
        )
    return tally


def _shuffle(spec: DatasetSpec, data_root: Path, tally: Tally) -> Iterator[Problem]:
    total = sum(1 for _ in _read_source(spec, data_root, Tally()))
    order = random.Random(spec.shuffle_seed).sample(range(total), min(spec.limit or total, total))
    place = {row: position for position, row in enumerate(order)}
    chosen: list[Problem | None] = [None] * len(order)
    for row, problem in enumerate(_read_source(spec, data_root, tally)):
        if row in place:
            chosen[place[row]] = problem
    return (problem for problem in chosen if problem is not None)


def _take(problems: Iterator[Problem], limit: int | None) -> Iterator[Problem]:
    for count, problem in enumerate(problems):
        if count == limit:
            return
        yield problem


def _read_source(spec: DatasetSpec, data_root: Path, tally: Tally) -> Iterator[Problem]:
    if spec.problems is not None:
        rows = ((f"problems[{index}]", row.model_dump()) for index, row in enumerate(spec.problems))
    elif spec.hub is not None:
        found = hub.read_rows(spec.hub, spec.config, spec.split)
        rows = ((f"{spec.name}, row {number}", row) for number, row in enumerate(found, 1))
    else:
        rows = files.read_rows(files.find_file(data_root, spec.path or ""))
    for number, (place, row) in enumerate(rows, 1):
        try:
            yield parse_problem(row, place, spec.columns, str(number))
        except DatasetError:
            if spec.on_bad_row == "fail":
                raise
            tally.skipped += 1


def parse_problem(row: object, place: str, columns: Columns, number: str) -> Problem:
    """One row; fields that the schema does not know are left aside, and an absent id is the row's number."""
    if isinstance(row, str):
        row = files.parse_line(row, place)
    if not isinstance(row, dict):
        raise DatasetError(f"{place}: not an object.", remedy="Write one JSON object a line.")
    known: dict[str, object] = {"id": number}
    known.update((name, value) for name, value in row.items() if name in _FIELDS and value is not None)
    for field, source in columns.items():
        names = [source] if isinstance(source, str) else source
        missing = [name for name in names if row.get(name) is None]
        if missing:
            raise DatasetError(
                f"{place}, field {field}: the row has no column {missing[0]!r}.",
                remedy=f"It has {', '.join(map(str, row))}; correct `columns`.",
            )
        known[field] = row[source] if isinstance(source, str) else [row[name] for name in names]
    try:
        return _check(Problem.model_validate(_to_text(known)), place)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        raise DatasetError(
            f"{place}, field {field}: {fault['msg']}.",
            remedy="A row has problem, answer and, as needed, id, kind (math, choice or string) and choices.",
        ) from None


def _to_text(row: dict[str, object]) -> dict[str, object]:
    """Numbers as ids and answers become text, and a cell that holds a JSON list of choices becomes that list."""
    made = {name: str(value) if isinstance(value, int | float) else value for name, value in row.items()}
    choices = made.get("choices")
    if isinstance(choices, str) and choices.startswith("["):
        try:
            made["choices"] = json.loads(choices)
        except ValueError:
            return made
    return made


def _check(problem: Problem, place: str) -> Problem:
    if problem.kind != "choice":
        return problem
    if problem.choices is None:
        raise DatasetError(f"{place}, field choices: missing.", remedy="A choice problem lists its options' texts.")
    letters = string.ascii_uppercase[: len(problem.choices)]
    golds = [problem.answer] if isinstance(problem.answer, str) else problem.answer
    for gold in golds:
        if len(gold) != 1 or gold not in letters:
            raise DatasetError(
                f"{place}, field answer: {gold[:40]!r} is not one of the letters {letters}.",
                remedy="Give the correct option's letter.",
            )
    return problem
