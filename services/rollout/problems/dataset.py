"""Reads problems: inline, from a file under the data root, from the Hugging Face hub, a preset by its name, or a mix.

Rows are read as a stream; a shuffle goes through a temporary file, and keeps eight bytes a row in memory. A
bad row is refused before a token is generated, naming file, line and field, or with `on_bad_row: skip` left out and
counted.
"""

import hashlib
import itertools
import math
import random
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.rollout.problems import files, hub
from services.rollout.problems.layout import AnswerLayout
from services.rollout.problems.presets import get_preset, layout_of
from services.rollout.problems.row import parse_problem
from shared.errors import DatasetError
from shared.grading import Kind
from shared.job import Columns, DatasetSpec
from shared.trajectory import Problem

_REASONS = 5

Rows = Iterator[tuple[files.Place, files.Row]]
OnRow = Callable[[], object]
"""Called at each row, since a set may have millions; what it raises ends the reading."""


@dataclass
class Tally:
    """Rows of one reading."""

    problems: int = 0
    kinds: set[Kind] = field(default_factory=set[Kind])
    skipped: int = 0
    reasons: list[str] = field(default_factory=list[str])
    """Why the first few were skipped."""


def read_problems(
    spec: DatasetSpec, data_root: Path, tally: Tally | None = None, on_row: OnRow = lambda: None
) -> Iterator[Problem]:
    """The problems of `spec` in its order, shuffled and limited as it says; skipped rows are counted in `tally`.

    Raises `DatasetError` for the first bad row or a source that cannot be read.
    """
    tally = tally or Tally()
    if spec.mix:
        problems = (problem for part in spec.mix for problem in read_problems(part, data_root, tally, on_row))
    else:
        problems = _parse(spec, data_root, tally, on_row)
    if spec.shuffle_seed is None:
        return itertools.islice(problems, spec.limit)
    return _shuffle(problems, spec, on_row)


def count_problems(
    spec: DatasetSpec,
    data_root: Path,
    examine: Callable[[Problem], object] = lambda _: None,
    on_row: OnRow = lambda: None,
) -> Tally:
    """How many problems `read_problems` gives; reads, and so checks, every row that it would give.

    `examine` gets every problem, and may raise.
    """
    tally = Tally()
    for problem in read_problems(spec, data_root, tally, on_row):
        examine(problem)
        tally.problems += 1
        tally.kinds.add(problem.kind)
    if tally.problems == 0:
        raise DatasetError(
            f"{spec.name} has no problems ({tally.skipped} bad rows skipped).",
            remedy="Name a dataset with at least one good row.",
        )
    return tally


def lies_at_hand(spec: DatasetSpec, data_root: Path) -> bool:
    """Whether the rows can be read without the hub. Raises `DatasetError` for a preset or split that is not known."""
    if spec.mix:
        return all(lies_at_hand(part, data_root) for part in spec.mix)
    if spec.preset is None:
        return spec.hub is None
    return _locate(spec, data_root) is not None


def _shuffle(problems: Iterator[Problem], spec: DatasetSpec, on_row: OnRow) -> Iterator[Problem]:
    try:
        with tempfile.TemporaryFile() as spool:
            offsets = array("Q")
            for problem in problems:
                offsets.append(spool.tell())
                spool.write(problem.model_dump_json().encode() + b"\n")
            count = min(spec.limit or len(offsets), len(offsets))
            for offset in draw(offsets, count, random.Random(spec.shuffle_seed)):
                on_row()
                spool.seek(offset)
                yield Problem.model_validate_json(spool.readline())
    except OSError as error:  # the spool's: those of a source are `DatasetError`s
        raise DatasetError(
            f"{spec.name} cannot be shuffled in {tempfile.gettempdir()}: {error}.",
            remedy="Set TMPDIR to a folder with room for all its problems, or name a smaller file.",
        ) from error


def draw(values: "array[int]", count: int, source: random.Random) -> Iterator[int]:
    """What `source.sample(values, count)` gives, one by one, drawn in `values` itself.

    `sample` draws from a list of all values in the same way, forty bytes each; where few are wanted, it remembers
    those instead.
    """
    if len(values) > 21 + (4 ** math.ceil(math.log(3 * count, 4)) if count > 5 else 0):
        yield from source.sample(values, count)
        return
    for last in range(len(values) - 1, len(values) - 1 - count, -1):
        place = source.randrange(last + 1)
        yield values[place]
        values[place] = values[last]


def _parse(spec: DatasetSpec, data_root: Path, tally: Tally, on_row: OnRow) -> Iterator[Problem]:
    rows, layout = _open(spec, data_root)
    columns: Columns = spec.columns
    if spec.answer_form != "plain":
        layout = _layout_answer(spec)
        columns = {field: column for field, column in columns.items() if field not in ("answer", "choices")}
    distinct = spec.preset is not None and get_preset(spec.preset).distinct
    seen = set[bytes]()
    for number, (place, row) in enumerate(rows, 1):
        on_row()
        try:
            known = _adapt(row, place, layout, number)
            if known is None:
                continue
            problem = parse_problem(known, place, columns, str(number))
        except DatasetError as error:
            if spec.on_bad_row == "fail":
                raise
            tally.skipped += 1
            if len(tally.reasons) < _REASONS:
                tally.reasons.append(str(error))
            continue
        if distinct:
            fingerprint = hashlib.blake2b(problem.problem.encode(), digest_size=12).digest()
            if fingerprint in seen:
                continue
            seen.add(fingerprint)
        yield problem


def _open(spec: DatasetSpec, data_root: Path) -> tuple[Rows, AnswerLayout | None]:
    """The rows of the source, and how they are written where that is known."""
    if spec.problems is not None:
        return iter([(f"problems[{index}]", row.model_dump()) for index, row in enumerate(spec.problems)]), None
    if spec.path is not None:
        return files.read_rows(files.find_file(data_root, spec.path)), None
    if spec.preset is not None:
        preset = get_preset(spec.preset)
        if file := _locate(spec, data_root):
            return files.read_rows(files.find_file(data_root, file)), preset.layout
        return hub.read_rows(preset.hub, preset.config, spec.split or preset.split), preset.layout
    assert spec.hub is not None
    layout = None if spec.columns else layout_of(spec.hub, spec.config)
    return hub.read_rows(spec.hub, spec.config, spec.split or hub.SPLIT), layout


def _layout_answer(spec: DatasetSpec) -> AnswerLayout:
    """Where the spec says that its rows keep the answer and the options."""
    answer, choices = spec.columns.get("answer", "answer"), spec.columns.get("choices", "choices")
    return AnswerLayout(
        answer=str(answer),
        answer_form=spec.answer_form,
        choices=tuple(choices) if isinstance(choices, list) else choices,
    )


def _locate(spec: DatasetSpec, data_root: Path) -> str | None:
    """The file in the data root that holds the spec's preset."""
    preset = get_preset(spec.preset or "")
    split = spec.split or preset.split
    if split not in preset.splits:
        raise DatasetError(f"{preset.name} has no split {split!r}.", remedy=f"It has {', '.join(preset.splits)}.")
    return preset.find_file(data_root, split)


def _adapt(row: files.Row, place: str, layout: AnswerLayout | None, number: int) -> Mapping[str, object] | None:
    """The row in this project's fields, as far as its layout is known; None where it is not of the set."""
    if isinstance(row, str):
        row = files.parse_line(row, place)
    if layout is None:
        return row
    if not layout.holds(row):
        return None
    remedy = f"It has {', '.join(map(str, row))}; check `config` and `split`, or `columns` and `answer_form`."
    try:
        return layout.adapt(row, str(number))
    except KeyError as error:
        raise DatasetError(f"{place}, field {error.args[0]}: missing.", remedy=remedy) from None
    except (ValueError, IndexError, TypeError, RecursionError) as error:
        raise DatasetError(f"{place}, field {layout.answer}: {error}.", remedy=remedy) from None
