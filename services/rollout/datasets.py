"""Reads problems: inline, from a file under the data root, or from the Hugging Face hub.

Rows are read as a stream. A bad row is refused before a token is generated, naming file, line and field.
"""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from services.rollout import hub
from shared.errors import DatasetError
from shared.job import DatasetSpec
from shared.trajectory import Problem

_FIELDS = frozenset(Problem.model_fields)
_SUFFIXES = (".jsonl", ".jsonl.gz")


def read_problems(spec: DatasetSpec, data_root: Path) -> Iterator[Problem]:
    """The problems of `spec` in its order, shuffled and limited as it says.

    Raises `DatasetError` for the first bad row or a source that cannot be read.
    """
    if spec.shuffle_seed is None:
        return _take(_read_source(spec, data_root), spec.limit)
    return _shuffle(spec, data_root)


def count_problems(spec: DatasetSpec, data_root: Path) -> int:
    """How many problems `read_problems` gives; reads, and so validates, every row that it would give."""
    count = sum(1 for _ in read_problems(spec, data_root))
    if count == 0:
        raise DatasetError(f"{spec.name} has no problems.", remedy="Name a dataset with at least one row.")
    return count


def _shuffle(spec: DatasetSpec, data_root: Path) -> Iterator[Problem]:
    total = sum(1 for _ in _read_source(spec, data_root))
    order = random.Random(spec.shuffle_seed).sample(range(total), min(spec.limit or total, total))
    place = {row: position for position, row in enumerate(order)}
    chosen: list[Problem | None] = [None] * len(order)
    for row, problem in enumerate(_read_source(spec, data_root)):
        if row in place:
            chosen[place[row]] = problem
    return (problem for problem in chosen if problem is not None)


def _take(problems: Iterator[Problem], limit: int | None) -> Iterator[Problem]:
    for count, problem in enumerate(problems):
        if count == limit:
            return
        yield problem


def _read_source(spec: DatasetSpec, data_root: Path) -> Iterator[Problem]:
    if spec.problems is not None:
        return (_check(row, f"problems[{index}]") for index, row in enumerate(spec.problems))
    if spec.hub is not None:
        rows = hub.read_rows(spec.hub, spec.config, spec.split)
        return (parse_problem(row, f"{spec.name}, row {number}") for number, row in enumerate(rows, 1))
    return _read_file(find_file(data_root, spec.path or ""))


def find_file(data_root: Path, name: str) -> Path:
    """The file under the data root; links that lead outside are refused."""
    root = data_root.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise DatasetError(f"{name} lies outside DRIFT_DATA_ROOT.", remedy="Name a file inside it.")
    if not name.endswith(_SUFFIXES):
        raise DatasetError(f"{name} has an unknown format.", remedy=f"Use {' or '.join(_SUFFIXES)}.")
    if not path.is_file():
        raise DatasetError(f"{name} is not in DRIFT_DATA_ROOT.", remedy="Put it there, or correct the name.")
    return path


def _read_file(path: Path) -> Iterator[Problem]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield parse_problem(_parse_json(line, f"{path.name}, line {number}"), f"{path.name}, line {number}")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise DatasetError(
                f"{path.name} cannot be read: {error}.", remedy="Write it as UTF-8 JSON lines."
            ) from error


def _parse_json(line: str, place: str) -> object:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DatasetError(f"{place}: not JSON ({error}).", remedy="Write one JSON object a line.") from error


def parse_problem(row: object, place: str) -> Problem:
    """One row; fields that the schema does not know are left aside."""
    if not isinstance(row, dict):
        raise DatasetError(f"{place}: not an object.", remedy="Write one JSON object a line.")
    known = {name: value for name, value in row.items() if name in _FIELDS and value is not None}
    try:
        return _check(Problem.model_validate(known), place)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        raise DatasetError(
            f"{place}, field {field}: {fault['msg']}.",
            remedy="A row has id, kind (math, choice or string), problem, answer and, for choice, choices.",
        ) from None


def _check(problem: Problem, place: str) -> Problem:
    if problem.kind != "choice":
        return problem
    if problem.choices is None:
        raise DatasetError(f"{place}, field choices: missing.", remedy="A choice problem lists its options' texts.")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(problem.choices)]
    golds = [problem.answer] if isinstance(problem.answer, str) else problem.answer
    for gold in golds:
        if len(gold) != 1 or gold not in letters:
            raise DatasetError(
                f"{place}, field answer: {gold[:40]!r} is not one of the letters {letters}.",
                remedy="Give the correct option's letter.",
            )
    return problem
