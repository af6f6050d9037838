"""The dataset of a job on disk: immutable Parquet shards of complete groups.

They lie at `RUNS_ROOT/JOB/dataset/PART/shard-NNNNNN.parquet`.

A shard appears whole or not at all (temporary file, fsync, rename), is never changed, and names its groups in
its footer. A group lies in one shard and once in the dataset; whoever writes checks `recorded_groups` first.
The columns are the fields of `Trajectory`, properly nested, so that any Parquet reader can study a job;
a problem's `answer` is always a list there.
"""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared.trajectory import Trajectory

_GROUPS = b"drift.groups"

_PROBLEM = pa.struct(
    {
        "id": pa.string(),
        "kind": pa.string(),
        "problem": pa.string(),
        "answer": pa.list_(pa.string()),
        "choices": pa.list_(pa.string()),
    }
)
_TURN = pa.struct(
    {
        "prompt_token_ids": pa.list_(pa.int32()),
        "token_ids": pa.list_(pa.int32()),
        "text": pa.string(),
        "finish_reason": pa.string(),
        "verdict": pa.string(),
        "answer": pa.string(),
        "normal_form": pa.string(),
        "method": pa.string(),
    }
)
SCHEMA = pa.schema(
    {
        "schema_version": pa.int32(),
        "job": pa.string(),
        "phase": pa.string(),
        "stage": pa.int32(),
        "dataset": pa.int32(),
        "policy": pa.string(),
        "group": pa.int64(),
        "k": pa.int32(),
        "group_size": pa.int32(),
        "problem": _PROBLEM,
        "turns": pa.list_(_TURN),
        "ending": pa.string(),
        "reason": pa.string(),
        "engine": pa.string(),
        "model": pa.string(),
    }
)
"""One row a trajectory."""


def dataset_folder(runs_root: Path, job: str, part: str) -> Path:
    """Where the shards of one part of a job lie."""
    return runs_root / job / "dataset" / part


def list_shards(folder: Path) -> list[Path]:
    """The part's shards in the order of their writing; empty where nothing has been written."""
    return sorted(folder.glob("shard-*.parquet"))


def recorded_groups(folder: Path) -> set[int]:
    """The groups that the part's shards hold; reads footers only."""
    return {group for path in list_shards(folder) for group in groups_of(path)}


class Ledger:
    """The groups of one part, looked up again and again by whoever does not write it: each footer is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: set[Path] = set()
        self._groups: set[int] = set()

    def groups(self) -> set[int]:
        """Every group that the part's shards hold now."""
        for path in list_shards(self._folder):
            if path not in self._read:
                self._groups.update(groups_of(path))
                self._read.add(path)
        return self._groups


def groups_of(path: Path) -> list[int]:
    """The groups of one shard, from its footer."""
    return json.loads(pq.read_schema(path).metadata[_GROUPS])


def read_shard(path: Path) -> list[Trajectory]:
    """The trajectories of one shard, in the order of their rows (by group, then k)."""
    return [_to_trajectory(row) for row in pq.read_table(path, schema=SCHEMA).to_pylist()]


def read_part(folder: Path) -> Iterator[Trajectory]:
    """Every trajectory of a part, shard by shard."""
    for path in list_shards(folder):
        yield from read_shard(path)


def write_shard(folder: Path, trajectories: Sequence[Trajectory]) -> Path:
    """Write whole groups as the part's next shard; when this returns, they survive a loss of power.

    There is one writer per part at a time: the number of the next shard is the last one's plus one.
    """
    rows = sorted(trajectories, key=lambda trajectory: (trajectory.group, trajectory.k))
    groups = sorted({row.group for row in rows})
    schema = SCHEMA.with_metadata({_GROUPS: json.dumps(groups).encode()})
    table = pa.Table.from_pylist([_to_row(row) for row in rows], schema=schema)
    folder.mkdir(parents=True, exist_ok=True)
    written = list_shards(folder)
    number = int(written[-1].stem.removeprefix("shard-")) + 1 if written else 0
    path = folder / f"shard-{number:06d}.parquet"
    temporary = folder / f".{path.name}.tmp"
    with temporary.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(folder)
    return path


def sync_folder(folder: Path) -> None:
    """Make the folder's names durable: a rename alone may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_row(trajectory: Trajectory) -> dict[str, Any]:
    row = trajectory.model_dump(mode="json")
    answer = row["problem"]["answer"]
    return {**row, "problem": {**row["problem"], "answer": [answer] if isinstance(answer, str) else answer}}


def _to_trajectory(row: dict[str, Any]) -> Trajectory:
    answer = row["problem"]["answer"]
    problem = {**row["problem"], "answer": answer[0] if len(answer) == 1 else answer}
    return Trajectory.model_validate({**row, "problem": problem})
