"""The dataset of a job on disk: immutable Parquet shards of complete groups.

They lie at `RUNS_ROOT/JOB/dataset/PART/shard-NNNNNN.parquet`.

A shard appears whole or not at all (temporary file, fsync, rename), is never changed, and names its groups in
its footer. A group lies in one shard and once in the dataset; whoever writes checks `recorded_groups` first.
The columns are the fields of `Trajectory`, properly nested, so that any Parquet reader can study a job;
a problem's `answer` is always a list there.
"""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared.trajectory import Trajectory

_GROUPS = b"drift.groups"
_WORD = 4096

ROW_GROUP = 512
"""Rows that are read together: who wants a few trajectories need not read the whole shard."""

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
    return sorted(folder.glob("shard-*.parquet"), key=_number_of)


def _number_of(shard: Path) -> int:
    return int(shard.stem.removeprefix("shard-"))


def recorded_groups(folder: Path) -> set[int]:
    """The groups that the part's shards hold, for its writer, who then lets go of them; reads footers only.

    The shards' names are made durable first: their writer may have failed between a rename and its sync.
    """
    if folder.is_dir():
        sync_folder(folder)
    return {group for path in list_shards(folder) for group in groups_of(path)}


class GroupSet:
    """Group numbers, one bit each: a million in a row take 200 kB, where a set of integers takes sixty megabytes.

    Any number may be far from the others: only words of `_WORD` bits that hold one are kept.
    """

    def __init__(self, groups: Iterable[int] = ()) -> None:
        self._words: dict[int, int] = {}
        self._count = 0
        self.update(groups)

    def update(self, groups: Iterable[int]) -> None:
        """Add these."""
        for group in groups:
            if group not in self:
                place, bit = divmod(group, _WORD)
                self._words[place] = self._words.get(place, 0) | 1 << bit
                self._count += 1

    def __contains__(self, group: int) -> bool:
        place, bit = divmod(group, _WORD)
        return bool(self._words.get(place, 0) >> bit & 1)

    def __len__(self) -> int:
        return self._count


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


def read_rows(path: Path, rows: Sequence[int]) -> list[Trajectory]:
    """Some trajectories of one shard, in the order of `rows`; only the row groups that hold them are read."""
    with pq.ParquetFile(path) as file:
        counts = [file.metadata.row_group(place).num_rows for place in range(file.num_row_groups)]
        starts = list(accumulate(counts, initial=0))
        wanted = sorted({bisect_right(starts, row) - 1 for row in rows})
        table = file.read_row_groups(wanted)
    first = {place: sum(counts[before] for before in wanted if before < place) - starts[place] for place in wanted}
    places = [row + first[bisect_right(starts, row) - 1] for row in rows]
    return [_to_trajectory(row) for row in table.take(places).to_pylist()]


def policy_of(path: Path) -> str:
    """The name of the policy that a shard's trajectories come from; a part has one."""
    with pq.ParquetFile(path) as file:
        names = file.read_row_group(0, columns=["policy"])["policy"] if file.num_row_groups else []
    return names[0].as_py() if len(names) else ""


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
    table = to_table(rows).replace_schema_metadata({_GROUPS: json.dumps(groups).encode()})
    folder.mkdir(parents=True, exist_ok=True)
    written = list_shards(folder)
    number = _number_of(written[-1]) + 1 if written else 0
    path = folder / f"shard-{number:06d}.parquet"
    temporary = folder / f".{path.name}.tmp"
    with temporary.open("wb") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(folder)
    return path


def to_table(trajectories: Sequence[Trajectory]) -> pa.Table:
    """The trajectories as a shard has them, one row each, with the columns of `SCHEMA`."""
    return pa.Table.from_pylist([_to_row(row) for row in trajectories], schema=SCHEMA)


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
