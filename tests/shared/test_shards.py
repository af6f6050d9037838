"""Promises of the dataset's format."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import shards
from shared.grading import Verdict
from shared.trajectory import Problem, Trajectory, Turn

text = st.text(max_size=20)
token_ids = st.lists(st.integers(0, 2**31 - 1), max_size=5)
turns = st.builds(
    Turn,
    prompt_token_ids=token_ids,
    token_ids=token_ids,
    text=text,
    finish_reason=st.sampled_from(["stop", "length"]),
    verdict=st.sampled_from(Verdict),
    answer=st.none() | text,
    normal_form=st.none() | text,
    method=st.none() | st.sampled_from(["string", "numeric", "symbolic", "choice"]),
)
problems = st.builds(
    Problem,
    id=st.text(min_size=1, max_size=8),
    kind=st.sampled_from(["math", "choice", "string"]),
    problem=st.text(min_size=1, max_size=20),
    answer=text | st.lists(text, min_size=2, max_size=3),
    choices=st.none() | st.lists(text, min_size=2, max_size=4),
)
trajectories = st.builds(
    Trajectory,
    job=text,
    phase=st.sampled_from(["rollout", "evaluate"]),
    stage=st.integers(0, 3),
    dataset=st.integers(0, 3),
    policy=text,
    group=st.integers(0, 2**40),
    k=st.integers(0, 31),
    group_size=st.integers(1, 32),
    problem=problems,
    turns=st.lists(turns, max_size=3),
    ending=st.sampled_from(["solved", "max_turns", "context", "ungraded", "failed"]),
    reason=st.none() | text,
    engine=text,
    model=text,
)


def make(group: int, k: int = 0) -> Trajectory:
    return Trajectory(
        job="job", phase="rollout", stage=0, policy="base", group=group, k=k, group_size=2,
        problem=Problem(id="1", problem="?", answer="B"), turns=[], ending="failed", engine="e", model="m",
    )  # fmt: skip


@settings(max_examples=50)
@given(rows=st.lists(trajectories, max_size=4))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Trajectory]) -> None:
    path = shards.write_shard(tmp_path_factory.mktemp("part"), rows)
    assert shards.read_shard(path) == sorted(rows, key=lambda row: (row.group, row.k))


def test_shards_are_numbered_on_and_name_their_groups(tmp_path: Path) -> None:
    folder = shards.dataset_folder(tmp_path, "job", "rollout-0")
    assert shards.recorded_groups(folder) == set()
    shards.write_shard(folder, [make(3, 1), make(1), make(3, 0)])
    shards.write_shard(folder, [make(7)])
    assert [path.name for path in shards.list_shards(folder)] == ["shard-000000.parquet", "shard-000001.parquet"]
    assert shards.groups_of(folder / "shard-000000.parquet") == [1, 3]
    assert shards.recorded_groups(folder) == {1, 3, 7}
    assert [(row.group, row.k) for row in shards.read_part(folder)] == [(1, 0), (3, 0), (3, 1), (7, 0)]


def test_shards_are_numbered_on_beyond_six_digits(tmp_path: Path) -> None:
    shards.write_shard(tmp_path, [make(0)]).rename(tmp_path / "shard-999999.parquet")
    written = [shards.write_shard(tmp_path, [make(group)]) for group in (1, 2)]
    assert [path.name for path in written] == ["shard-1000000.parquet", "shard-1000001.parquet"]
    assert [row.group for row in shards.read_part(tmp_path)] == [0, 1, 2]


def test_a_shard_cut_short_by_a_crash_is_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", crash)
    with pytest.raises(OSError, match="no space"):
        shards.write_shard(tmp_path, [make(0)])
    monkeypatch.undo()
    assert shards.list_shards(tmp_path) == []
    assert shards.write_shard(tmp_path, [make(0)]).name == "shard-000000.parquet"
    assert shards.recorded_groups(tmp_path) == {0}


def test_columns_are_nested_for_any_parquet_reader(tmp_path: Path) -> None:
    table = pq.read_table(shards.write_shard(tmp_path, [make(0)]))
    assert table.column("problem").type.get_field_index("answer") >= 0
    turns = str(table.schema.field("turns").type)
    assert turns.startswith("list<element: struct<prompt_token_ids: list<element: int32>")


_GROUPS = st.integers(0, 300) | st.integers(0, (1 << 63) - 1)


@given(st.lists(st.lists(_GROUPS)), _GROUPS)
def test_a_group_set_holds_what_a_set_holds(added: list[list[int]], asked: int) -> None:
    groups, plain = shards.GroupSet(), set[int]()
    for some in added:
        groups.update(some)
        plain.update(some)
    assert len(groups) == len(plain)
    assert (asked in groups) == (asked in plain)
    assert all(group in groups for group in plain)
