"""Problems are read as they are written; what is bad is refused by file, line and field."""

import base64
import gzip
import json
import random
import tracemalloc
from array import array
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.rollout.problems.dataset import count_problems, draw, read_problems
from services.rollout.problems.files import read_rows
from shared.errors import DatasetError
from shared.grading import MAX_TEXT
from shared.job import DatasetSpec

GOOD = {"id": "1", "kind": "choice", "problem": "Q", "answer": "A", "choices": ["x", "y"], "source": "elsewhere"}


SEVERAL = ["3", "4", "5"]


def write(folder: Path, *rows: object, name: str = "rows.jsonl") -> DatasetSpec:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return DatasetSpec(path=name)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_come_in_the_files_order(tmp_path: Path, name: str) -> None:
    spec = write(tmp_path, *({**GOOD, "id": str(n)} for n in range(5)), name=name)
    assert [problem.id for problem in read_problems(spec, tmp_path)] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path, name: str) -> None:
    spec = write(tmp_path, "\ufeff" + json.dumps(GOOD), {**GOOD, "id": "2"}, name=name)
    assert [problem.id for problem in read_problems(spec, tmp_path)] == ["1", "2"]


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


@pytest.mark.parametrize("on_bad_row", ["fail", "skip"])
def test_a_row_behind_the_limit_is_not_read(tmp_path: Path, on_bad_row: str) -> None:
    spec = write(tmp_path, GOOD, GOOD, "not json").model_copy(update={"limit": 2, "on_bad_row": on_bad_row})
    read: list[None] = []
    tally = count_problems(spec, tmp_path, on_row=lambda: read.append(None))
    assert (tally.problems, tally.skipped, len(read)) == (2, 0, 2)
    mix = DatasetSpec(mix=[spec, write(tmp_path, "not json", name="other.jsonl")], limit=2)
    assert count_problems(mix, tmp_path).problems == 2


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 9))
@example(1_000, 80, 0)  # few of many: 80 are remembered, 90 are not
@example(1_000, 90, 0)
def test_a_shuffle_is_that_of_the_standard_library(total: int, count: int, seed: int) -> None:
    count = min(count, total)
    drawn = list(draw(array("Q", range(total)), count, random.Random(seed)))
    assert drawn == random.Random(seed).sample(range(total), count)


@pytest.mark.parametrize("count", [100_000, 30_000])
def test_a_shuffle_takes_no_memory_beside_its_eight_bytes_a_row(count: int) -> None:
    offsets = array("Q", range(0, 100_000_000, 1000))
    tracemalloc.start()
    try:
        drawn = sum(1 for _ in draw(offsets, count, random.Random(1)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (drawn, len(offsets)) == (count, 100_000)
    assert peak < 100_000


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("not json", "not JSON"),
        ("[1]", "not an object"),
        ({**GOOD, "answer": "C"}, "field answer"),
        ({**GOOD, "choices": None}, "field choices"),
        ({**GOOD, "problem": ""}, "field problem"),
        ({**GOOD, "problem": " \t"}, "field problem: blank"),
        ({**GOOD, "answer": ""}, "field answer: blank"),
        ({"problem": "Q", "answer": " "}, "field answer: blank"),
        ({"problem": "Q", "answer": ["4", ""]}, "field answer: blank"),
        ({"problem": "Q", "answer": "", "kind": "string"}, "field answer: blank"),
        ({**GOOD, "kind": "essay"}, "field kind"),
        ({**GOOD, "kind": "math", "answer": "1" * (MAX_TEXT + 1)}, "field answer"),
        ({**GOOD, "choices": ["x", "y" * (MAX_TEXT + 1)]}, "field choices"),
        ({key: value for key, value in GOOD.items() if key != "answer"}, "field answer"),
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


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, GOOD, name="rows.jsonl.gz")
    file = tmp_path / "rows.jsonl.gz"
    sound = file.read_bytes()
    for damaged in (sound[:-12], sound[:10] + b"\xff" + sound[11:], b"plain" + sound):
        file.write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"rows\.jsonl\.gz cannot be read"):
            count_problems(DatasetSpec(path="rows.jsonl.gz"), tmp_path)


def test_a_shuffle_without_room_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write(tmp_path, *({**GOOD, "id": str(n)} for n in range(300))).model_copy(update={"shuffle_seed": 1})
    monkeypatch.setattr("tempfile.TemporaryFile", partial(open, "/dev/full", "w+b"))
    with pytest.raises(DatasetError, match=r"cannot be shuffled in .*No space left") as refusal:
        count_problems(spec, tmp_path)
    assert "TMPDIR" in (refusal.value.remedy or "")


@pytest.mark.parametrize(
    ("form", "columns", "row", "gold"),
    [
        ("index", {}, {"question": "Q", "choices": SEVERAL, "answer": 1}, "B"),
        ("index", {}, {"question": "Q", "choices": json.dumps(SEVERAL), "answer": "1"}, "B"),
        (
            "index",
            {"answer": "key", "choices": ["a", "b", "c"]},
            {"a": "3", "b": "4", "c": "5", "problem": "Q", "key": 1},
            "B",
        ),
        ("index", {}, {"problem": "Q", "choices": {"text": SEVERAL}, "answer": 1}, "B"),
        (
            "label",
            {"problem": "stem", "answer": "key", "choices": "options"},
            {"stem": "Q", "options": {"text": SEVERAL, "label": ["1", "2", "3"]}, "key": "2"},
            "B",
        ),
        ("after_hashes", {}, {"question": "Q", "answer": "2 + 2 is\n#### 4"}, "4"),
    ],
)
def test_an_answer_in_another_form_becomes_the_gold_answer(
    tmp_path: Path, form: str, columns: dict[str, object], row: dict[str, object], gold: str
) -> None:
    path = write(tmp_path, row).path
    spec = DatasetSpec.model_validate({"path": path, "columns": columns, "answer_form": form})
    (problem,) = read_problems(spec, tmp_path)
    assert (problem.problem, problem.answer, problem.choices) == ("Q", gold, SEVERAL if gold == "B" else None)
    assert problem.kind == ("choice" if gold == "B" else "math")


@pytest.mark.parametrize("choices", ["wrong", ["w1", "w2"]])
def test_the_right_options_text_is_put_among_the_wrong_ones_alike_every_time(
    tmp_path: Path, choices: str | list[str]
) -> None:
    row = {"problem": "Q", "right": " 4", "wrong": ["3", "5"], "w1": "3", "w2": "5"}
    spec = write(tmp_path, *[row] * 20).model_copy(
        update={"columns": {"answer": "right", "choices": choices}, "answer_form": "first_option"}
    )
    problems = list(read_problems(spec, tmp_path))
    assert problems == list(read_problems(spec, tmp_path))
    assert {str(problem.answer) for problem in problems} == set("ABC")
    for problem in problems:
        assert sorted(problem.choices or ()) == SEVERAL
        assert (problem.choices or [])["ABC".index(str(problem.answer))] == "4"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"choices": SEVERAL, "answer": 3}, "answer: 'D' is not one of the letters ABC"),
        ({"choices": SEVERAL, "answer": "B"}, "answer: invalid literal"),
        ({"choices": "3, 4", "answer": 1}, "answer: Extra data"),
        ({"choices": None, "answer": 1}, "choices: missing"),
        ({"choices": SEVERAL}, "answer: missing"),
    ],
)
def test_an_answer_that_is_not_in_its_form_is_named_by_line_and_field(
    tmp_path: Path, row: dict[str, object], fault: str
) -> None:
    spec = write(tmp_path, {"problem": "Q"} | row).model_copy(update={"answer_form": "index"})
    with pytest.raises(DatasetError, match=rf"rows\.jsonl, line 1, field {fault}"):
        count_problems(spec, tmp_path)


@pytest.mark.parametrize(("form", "solution"), [("after_hashes", "2 + 2 is\n#### "), ("boxed", r"It is \boxed{}.")])
def test_a_solution_without_its_answer_is_named_by_line_and_field(tmp_path: Path, form: str, solution: str) -> None:
    spec = write(tmp_path, {"problem": "Q", "answer": solution}).model_copy(update={"answer_form": form})
    with pytest.raises(DatasetError, match=r"rows\.jsonl, line 1, field answer: blank"):
        count_problems(spec, tmp_path)


CSV = 'question,right,first,second,id\n2 + 2?,B,3,4,a\n"Big, red?",A,yes,no,b\n'


def test_a_csv_file_needs_only_a_mapping_of_its_columns(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(CSV)
    columns = {"problem": "question", "answer": "right", "choices": ["first", "second"]}
    spec = DatasetSpec.model_validate({"path": "own.csv", "columns": columns})
    first, second = read_problems(spec, tmp_path)
    assert (first.id, first.problem, first.answer, first.choices) == ("a", "2 + 2?", "B", ["3", "4"])
    assert first.kind == "choice"
    assert (second.problem, second.choices) == ("Big, red?", ["yes", "no"])
    with pytest.raises(DatasetError, match=r"own\.csv, line 2, field problem: the row has no column 'text'"):
        count_problems(spec.model_copy(update={"columns": {"problem": "text"}}), tmp_path)


def test_a_comma_without_quotes_is_named_and_never_shifts_the_answer(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('problem,answer\n"What is 1,000 + 1?",1001\nWhat is 2 + 2?,4,\n')
    assert [problem.answer for problem in read_problems(DatasetSpec(path="rows.csv"), tmp_path)] == ["1001", "4"]
    file.write_text("problem,answer\nWhat is 1,000 + 1?,1001\n")
    with pytest.raises(DatasetError, match=r"rows\.csv, line 2: the row has more cells.*quotes"):
        count_problems(DatasetSpec(path="rows.csv"), tmp_path)


def test_a_parquet_file_is_read_row_by_row(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": str(number)} for number in range(600)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    spec = DatasetSpec(path="rows.parquet")
    assert [problem.id for problem in read_problems(spec, tmp_path)] == [str(number) for number in range(600)]
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(DatasetError, match=r"bad\.parquet cannot be read"):
        count_problems(DatasetSpec(path="bad.parquet"), tmp_path)


@pytest.mark.parametrize("row_group", [256, 16_384])
def test_a_parquet_file_is_never_in_memory_as_a_whole(tmp_path: Path, row_group: int) -> None:
    texts = base64.b64encode(random.Random(0).randbytes(12 << 20)).decode()
    problems = [texts[begin : begin + 1024] for begin in range(0, len(texts), 1024)]
    table = pa.table({"problem": problems, "answer": ["1"] * len(problems)})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=row_group, compression="none")
    del table
    before, most, count = pa.total_allocated_bytes(), 0, 0
    for _ in read_rows(tmp_path / "rows.parquet"):
        most, count = max(most, pa.total_allocated_bytes() - before), count + 1
    assert count == len(problems)
    assert most < (tmp_path / "rows.parquet").stat().st_size / 2


def test_numbers_as_answers_and_options_are_texts(tmp_path: Path) -> None:
    row = {"problem": "Q", "answer": "B", "choices": [3, 4.5]}
    pq.write_table(pa.Table.from_pylist([row | {"choices": [3.0, 4.5]}]), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text('problem,answer,choices\nQ,B,"[3, 4.5]"\n')
    assert write(tmp_path, row, {"problem": "Q", "answer": [3, "4.5"]}).path == "rows.jsonl"
    lines, cells, table = (
        list(read_problems(DatasetSpec(path=f"rows.{ending}"), tmp_path)) for ending in ("jsonl", "csv", "parquet")
    )
    assert lines[0].choices == cells[0].choices == ["3", "4.5"]
    assert table[0].choices == ["3.0", "4.5"]
    assert lines[1].answer == ["3", "4.5"]


@pytest.mark.parametrize("seed", [None, 5])
def test_bad_rows_can_be_skipped_and_are_counted(tmp_path: Path, seed: int | None) -> None:
    spec = write(tmp_path, GOOD, "not json", {**GOOD, "answer": "Z"}, {**GOOD, "id": "2"}, [1])
    tally = count_problems(spec.model_copy(update={"on_bad_row": "skip", "shuffle_seed": seed}), tmp_path)
    assert (tally.problems, tally.skipped) == (2, 3)
    with pytest.raises(DatasetError, match="3 bad rows skipped"):
        count_problems(write(tmp_path, "x", "y", "z").model_copy(update={"on_bad_row": "skip"}), tmp_path)


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no problems"):
        count_problems(write(tmp_path), tmp_path)


def test_exactly_one_source_is_named() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        DatasetSpec(path="a.jsonl", hub="b/c")
    with pytest.raises(ValueError, match="exactly one"):
        DatasetSpec()


def test_a_mix_is_its_sets_each_limited_and_shuffled_by_itself_and_then_as_a_whole(tmp_path: Path) -> None:
    one = write(tmp_path, *({**GOOD, "id": f"a{n}"} for n in range(9)), name="one.jsonl")
    other = write(tmp_path, *({**GOOD, "id": f"b{n}"} for n in range(9)), name="other.jsonl")
    mix = DatasetSpec(mix=[one.model_copy(update={"limit": 3, "shuffle_seed": 5}), other])
    parts = [problem.id for part in mix.mix or [] for problem in read_problems(part, tmp_path)]
    assert [problem.id for problem in read_problems(mix, tmp_path)] == parts
    assert [part[0] for part in parts] == ["a"] * 3 + ["b"] * 9
    shuffled = DatasetSpec(mix=mix.mix, shuffle_seed=1)
    assert sorted(problem.id for problem in read_problems(shuffled, tmp_path)) == sorted(parts)
    assert [problem.id for problem in read_problems(shuffled, tmp_path)] != parts
    assert count_problems(shuffled, tmp_path).problems == 12


def test_a_bad_row_of_a_mix_is_refused_or_skipped_as_its_own_set_says(tmp_path: Path) -> None:
    good, bad = write(tmp_path, GOOD), write(tmp_path, GOOD, {**GOOD, "answer": None}, name="bad.jsonl")
    with pytest.raises(DatasetError, match=r"bad\.jsonl, line 2, field answer"):
        count_problems(DatasetSpec(mix=[good, bad]), tmp_path)
    tally = count_problems(DatasetSpec(mix=[good, bad.model_copy(update={"on_bad_row": "skip"})]), tmp_path)
    assert (tally.problems, tally.skipped) == (2, 1)


def test_what_a_mix_would_ignore_is_refused() -> None:
    parts = [{"path": "a.jsonl"}, {"path": "b.jsonl"}]
    for ignored in ({"on_bad_row": "skip"}, {"columns": {"id": "key"}}):
        with pytest.raises(ValueError, match="each with its own"):
            DatasetSpec.model_validate({"mix": parts} | ignored)
