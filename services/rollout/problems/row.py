"""One row of a source becomes a `Problem`, or an error that names its place, the field and the remedy."""

import json
import string
from collections.abc import Mapping
from contextlib import suppress
from typing import cast

from pydantic import ValidationError

from shared.errors import DatasetError
from shared.job import Columns
from shared.trajectory import Problem

_FIELDS = frozenset(Problem.model_fields)
SURPLUS = "\0surplus"
"""The key of what a row of CSV holds beyond the header's columns."""


def parse_problem(row: Mapping[str, object], place: str, columns: Columns, number: str) -> Problem:
    """One row; fields that the schema does not know are left aside, and an absent id is the row's number."""
    if any(str(cell).strip() for cell in cast(list[str], row.get(SURPLUS, []))):
        raise DatasetError(
            f"{place}: the row has more cells than the header names.", remedy='Put a cell with commas into "quotes".'
        )
    known: dict[str, object] = {"id": number}
    if row.get("question") is not None:
        known["problem"] = row["question"]
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
    """Numbers become text, alone or in a list, and a cell that holds a JSON list of choices becomes that list."""
    choices = row.get("choices")
    if isinstance(choices, str) and choices.startswith("["):
        with suppress(ValueError, RecursionError):  # the schema says what is wrong with it
            row = row | {"choices": json.loads(choices)}
    return {
        name: [_spell(each) for each in cast(list[object], value)] if isinstance(value, list) else _spell(value)
        for name, value in row.items()
    }


def _spell(value: object) -> object:
    return str(value) if isinstance(value, int | float) else value


def _check(problem: Problem, place: str) -> Problem:
    golds = [problem.answer] if isinstance(problem.answer, str) else problem.answer
    for field, texts in {"problem": [problem.problem], "answer": golds}.items():
        if not all(text.strip() for text in texts):
            raise DatasetError(f"{place}, field {field}: blank.", remedy="Fill it in, or leave the row out.")
    if problem.kind != "choice":
        return problem
    if problem.choices is None:
        raise DatasetError(f"{place}, field choices: missing.", remedy="A choice problem lists its options' texts.")
    letters = string.ascii_uppercase[: len(problem.choices)]
    for gold in golds:
        if len(gold) != 1 or gold not in letters:
            raise DatasetError(
                f"{place}, field answer: {gold[:40]!r} is not one of the letters {letters}.",
                remedy="Give the correct option's letter.",
            )
    return problem
