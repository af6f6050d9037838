"""A job's trajectories for other tools: JSON lines, Parquet, or a Hugging Face dataset folder as a tar.

Everything is streamed, a row group at a time. The columns are those of the dataset's shards, and for each trajectory
`success`, `return` and `weight` (null where it has none).
"""

import asyncio
import io
import json
import math
import tarfile
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from services.rollout.archive import STREAM, Archive, Recorded
from services.rollout.outcomes import Floats, Integers
from services.rollout.records import weigh_part
from shared.returns import ReturnSpec
from shared.shards import ROW_GROUP, SCHEMA, to_table

Format = Literal["jsonl", "parquet", "hf"]
MEDIA_TYPES: dict[Format, str] = {
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "hf": "application/x-tar",
}
ENDINGS: dict[Format, str] = {"jsonl": "jsonl", "parquet": "parquet", "hf": "tar"}

_ADDED = [pa.field("success", pa.bool_()), pa.field("return", pa.float64()), pa.field("weight", pa.float64())]
_SCHEMA = pa.schema([*SCHEMA, *_ADDED])
_BUFFER = 1 << 20
"""Bytes of a column that are read at a time; by default pyarrow keeps the whole shard."""
_AS_OBJECTS = 8
"""Trajectories whose token ids, up to a hundred thousand each, are Python integers together: nine times the size."""


async def export(
    archive: Archive, job: str, spec: ReturnSpec, format: Format, part: str | None = None
) -> AsyncIterator[bytes]:
    """The bytes of the file, as it stood when it was asked for."""
    recorded = await archive.read(job, part)
    match format:
        case "jsonl":
            async for table in _read_all(archive, job, spec, recorded):
                for begin in range(0, len(table), _AS_OBJECTS):
                    yield await asyncio.to_thread(_to_lines, table.slice(begin, _AS_OBJECTS))
        case "parquet":
            async for piece in _write_parquet(_read_all(archive, job, spec, recorded)):
                yield piece
        case "hf":
            async for piece in _write_folder(archive, job, spec, recorded):
                yield piece


async def _read_all(archive: Archive, job: str, spec: ReturnSpec, recorded: list[Recorded]) -> AsyncIterator[pa.Table]:
    for part in recorded:
        async for table in _read_part(archive, job, spec, part):
            yield table


async def _read_part(archive: Archive, job: str, spec: ReturnSpec, part: Recorded) -> AsyncIterator[pa.Table]:
    """Shard by shard, then what waits in the stream."""
    returns, weights = part.outcomes.score(spec), weigh_part(part, spec)
    for source, path in enumerate(part.shards):
        rows = np.flatnonzero(part.source == source)
        rows = rows[np.argsort(part.place[rows])]
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
            begin = 0
            for batch in file.iter_batches(batch_size=ROW_GROUP):
                table = pa.Table.from_batches([batch])
                yield _add_columns(table, part, rows[begin : begin + len(table)], returns, weights)
                begin += len(table)
    waiting = np.flatnonzero(part.source == STREAM)
    for begin in range(0, len(waiting), ROW_GROUP):
        table, rows = await _read_waiting(archive, job, part, waiting[begin : begin + ROW_GROUP].tolist())
        yield _add_columns(table, part, rows, returns, weights)


async def _read_waiting(archive: Archive, job: str, part: Recorded, rows: list[int]) -> tuple[pa.Table, Integers]:
    """Those that are still to be had, and their rows."""
    tables = [SCHEMA.empty_table()]
    held: list[int] = []
    for begin in range(0, len(rows), _AS_OBJECTS):
        found = await archive.fetch(job, part, rows[begin : begin + _AS_OBJECTS])
        tables.append(await asyncio.to_thread(to_table, list(found.values())))
        held += found
    return pa.concat_tables(tables), np.array(held, np.int64)


def _add_columns(table: pa.Table, part: Recorded, rows: Any, returns: Floats, weights: Floats) -> pa.Table:
    columns = [
        pa.array(part.outcomes.success[rows]),
        pa.array(returns[rows]),
        pa.array(weights[rows], from_pandas=True),
    ]
    for field, column in zip(_ADDED, columns, strict=True):
        table = table.append_column(field, column)
    return table.cast(_SCHEMA)


def _to_lines(table: pa.Table) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()).encode()


async def _write_parquet(tables: AsyncIterator[pa.Table]) -> AsyncIterator[bytes]:
    sink = _Drain()
    writer = pq.ParquetWriter(sink, _SCHEMA, compression="zstd")
    async for table in tables:
        await asyncio.to_thread(writer.write_table, table)
        yield sink.take()
    writer.close()
    yield sink.take()


async def _write_folder(archive: Archive, job: str, spec: ReturnSpec, recorded: list[Recorded]) -> AsyncIterator[bytes]:
    """A tar of `README.md` and `data/PART/NNNNN.parquet`; `datasets.load_dataset(FOLDER, PART)` reads it."""
    yield _to_member(f"{job}/README.md", _write_card(job, recorded).encode())
    for part in recorded:
        number = 0
        async for table in _read_part(archive, job, spec, part):
            yield _to_member(
                f"{job}/data/{part.part}/{number:05d}.parquet", await asyncio.to_thread(_to_parquet, table)
            )
            number += 1
    yield bytes(2 * tarfile.BLOCKSIZE)


def _write_card(job: str, recorded: list[Recorded]) -> str:
    parts = sorted((part.part for part in recorded), key=lambda name: (not name.startswith("rollout-"), name))
    configs = "".join(
        f"- config_name: {name}\n  data_files: data/{name}/*.parquet\n" + ("  default: true\n" if not place else "")
        for place, name in enumerate(parts)
    )
    rows = "".join(f"| `{part.part}` | {part.policy} | {len(part.outcomes)} |\n" for part in recorded)
    head = f"---\nconfigs:\n{configs}---\n" if parts else ""
    return (
        f"{head}# Trajectories of job {job}\n\n| part | policy | trajectories |\n|---|---|---:|\n{rows}\n"
        "Token ids are the engine's own. `weight` is exp(R/beta)/Z within the group, null without one.\n"
    )


def _to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _to_member(name: str, content: bytes) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(content), int(time.time())
    padded = math.ceil(len(content) / tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return entry.tobuf() + content.ljust(padded, b"\0")


class _Drain(io.RawIOBase):
    """What is written waits until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._held = bytearray()
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._held += data
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def take(self) -> bytes:
        taken = bytes(self._held)
        self._held.clear()
        return taken
