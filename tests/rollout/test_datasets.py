"""Problems are read as they are written; what is bad is refused by file, line and field."""

import gzip
import json
from pathlib import Path

import pytest

from services.rollout.datasets import count_problems, read_problems
from shared.errors import DatasetError
from shared.job import DatasetSpec

GOOD = {"id": "1", "kind": "choice", "problem": "Q", "answer": "A", "choices": ["x", "y"], "source": "elsewhere"}


def write(folder: Path, *rows: object, name: str = "rows.jsonl") -> DatasetSpec:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return DatasetSpec(path=name)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_come_in_the_files_order(tmp_path: Path, name: str) -> None:
    spec = write(tmp_path, *({**GOOD, "id": str(n)} for n in range(5)), name=name)
    assert [problem.id for problem in read_problems(spec, tmp_path)] == ["0", "1", "2", "3", "4"]


def test_a_shuffle_is_a_function_of_its_seed_and_a_limit_takes_its_beginning(tmp_path: Path) -> None:
    spec = write(tmp_path, *({**GOOD, "id": str(n)} for n in range(50)))

    def ids(**change: int) -> list[str]:
        return [problem.id for problem in read_problems(spec.model_copy(update=change), tmp_path)]

    whole = ids(shuffle_seed=1)
    assert sorted(whole, key=int) == [str(n) for n in range(50)]
    assert whole != ids() and whole != ids(shuffle_seed=2)
    assert ids(shuffle_seed=1) == whole
    assert len(set(ids(shuffle_seed=1, limit=7))) == 7
    assert ids(shuffle_seed=1, limit=7) == ids(shuffle_seed=1, limit=7)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("not json", "not JSON"),
        ("[1]", "not an object"),
        ({**GOOD, "answer": "C"}, "field answer"),
        ({**GOOD, "choices": None}, "field choices"),
        ({**GOOD, "problem": ""}, "field problem"),
        ({**GOOD, "kind": "essay"}, "field kind"),
        ({key: value for key, value in GOOD.items() if key != "id"}, "field id"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, row: object, field: str) -> None:
    spec = write(tmp_path, GOOD, row)
    with pytest.raises(DatasetError, match=r"rows\.jsonl, line 2") as refusal:
        count_problems(spec, tmp_path)
    assert field in str(refusal.value)
    assert refusal.value.remedy


def test_nothing_outside_the_data_root_is_read(tmp_path: Path) -> None:
    inside = tmp_path / "root"
    inside.mkdir()
    write(tmp_path, GOOD, name="secret.jsonl")
    (inside / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(DatasetError, match="outside"):
        count_problems(DatasetSpec(path="link.jsonl"), inside)
    for path in ("../secret.jsonl", "/etc/passwd"):
        with pytest.raises(ValueError, match="relative to DRIFT_DATA_ROOT"):
            DatasetSpec(path=path)


def test_a_missing_file_and_an_unknown_format_say_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not in DRIFT_DATA_ROOT"):
        count_problems(DatasetSpec(path="none.jsonl"), tmp_path)
    with pytest.raises(DatasetError, match="unknown format"):
        count_problems(DatasetSpec(path="none.xlsx"), tmp_path)


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no problems"):
        count_problems(write(tmp_path), tmp_path)


def test_exactly_one_source_is_named() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        DatasetSpec(path="a.jsonl", hub="b/c")
    with pytest.raises(ValueError, match="exactly one"):
        DatasetSpec()
