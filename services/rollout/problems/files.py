"""Rows of a dataset file, as a stream: JSON lines (plain or gzip), CSV, Parquet. Each with its place in the file."""

import csv
import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.rollout.problems.row import SURPLUS
from shared.errors import DatasetError

Place = str
Row = Mapping[str, object] | str
"""Fields, or for JSON lines the line itself, parsed where a bad one can be skipped."""

_BATCH = 256
_BUFFER = 1 << 20
_MAX_LINE = 16 << 20
"""Most characters of one line: a file without line ends must not be held in memory."""

csv.field_size_limit(_MAX_LINE)


def find_file(data_root: Path, name: str) -> Path:
    """The file under the data root; links that lead outside are refused."""
    root = data_root.resolve()
    try:
        path = (root / name).resolve()
        found = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long, a zero byte
        raise DatasetError(f"{name[:200]!r} is no file's name: {error}.", remedy="Correct the name.") from error
    if not path.is_relative_to(root):
        raise DatasetError(f"{name} lies outside DRIFT_DATA_ROOT.", remedy="Name a file inside it.")
    if _reader_of(name) is None:
        raise DatasetError(f"{name} has an unknown format.", remedy=f"Use {', '.join(_READERS)}.")
    if not found:
        raise DatasetError(
            f"{name} is not in DRIFT_DATA_ROOT, which is {root}.", remedy="Put it there, or correct the name."
        )
    return path


def read_rows(path: Path) -> Iterator[tuple[Place, Row]]:
    """Every row; raises `DatasetError` where the file itself cannot be read."""
    reader = _reader_of(path.name)
    assert reader is not None
    try:
        yield from reader(path)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error, pa.ArrowException) as error:
        raise DatasetError(
            f"{path.name} cannot be read: {error}.", remedy="Check its format and encoding (UTF-8)."
        ) from error


def parse_line(line: str, place: Place) -> Mapping[str, object]:
    """One JSON line; raises `DatasetError` where it is no object."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{place}: not JSON ({error}).", remedy="Write one JSON object a line.") from error
    if not isinstance(row, dict):
        raise DatasetError(f"{place}: not an object.", remedy="Write one JSON object a line.")
    return row


def read_parquet(path: Path) -> Iterator[Mapping[str, object]]:
    """Every row; of each column a megabyte and a page are in memory, however large the file and its row groups are."""
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
        for batch in file.iter_batches(batch_size=_BATCH):
            yield from batch.to_pylist()


def _read_json_lines(path: Path) -> Iterator[tuple[Place, Row]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as lines:
        for number in itertools.count(1):
            line = lines.readline(_MAX_LINE)
            if not line:
                return
            if len(line) == _MAX_LINE:
                raise DatasetError(
                    f"{path.name}, line {number} is longer than {_MAX_LINE} characters.",
                    remedy="Write one JSON object a line.",
                )
            if line.strip():
                yield f"{path.name}, line {number}", line


def _read_csv(path: Path) -> Iterator[tuple[Place, Row]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, restkey=SURPLUS)
        for row in reader:
            yield f"{path.name}, line {reader.line_num}", {name: cell for name, cell in row.items() if cell}


def _read_parquet(path: Path) -> Iterator[tuple[Place, Row]]:
    for number, row in enumerate(read_parquet(path), 1):
        yield f"{path.name}, row {number}", row


_READERS: dict[str, Callable[[Path], Iterator[tuple[Place, Row]]]] = {
    ".jsonl": _read_json_lines,
    ".jsonl.gz": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


ENDINGS = tuple(_READERS)
"""Of the files that can be read."""


def _reader_of(name: str) -> Callable[[Path], Iterator[tuple[Place, Row]]] | None:
    return next((reader for suffix, reader in _READERS.items() if name.endswith(suffix)), None)
