"""Problems from the Hugging Face hub, asked of a hub on loopback."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from services.rollout.problems.dataset import count_problems, read_problems
from shared.errors import DatasetError
from shared.job import DatasetSpec
from tests.fakes.hub import build_hub, to_parquet, use_hub

ARC = DatasetSpec(hub="allenai/ai2_arc", config="ARC-Easy", split="test")


def make_arc(id: str, labels: str, key: str) -> dict[str, object]:
    return {
        "id": id,
        "question": f"Which of {id}?",
        "choices": {"text": [f"option {label}" for label in labels], "label": list(labels)},
        "answerKey": key,
    }


def _spoil_pages(file: bytes) -> bytes:
    """Its first page is none, while its footer is sound."""
    return file[:4] + b"\xff" * 16 + file[20:]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    files = {
        "allenai/ai2_arc": {
            "README.md": b"",
            "ARC-Easy/test-00000-of-00001.parquet": to_parquet(
                [make_arc("a", "ABCD", "C"), make_arc("b", "1234", "2")]
            ),
            "ARC-Easy/train-00000-of-00001.parquet": to_parquet([make_arc("c", "ABCDE", "E")]),
            "ARC-Challenge/test-00000-of-00001.parquet": to_parquet([make_arc("d", "ABCD", "A")]),
        },
        "me/own": {"data/train-00000-of-00001.parquet": to_parquet([{"question": "1+1?", "answer": "2"}])},
        "me/broken": {"test.parquet": to_parquet([{"question": "?"}])},
        "me/damaged": {
            "test-0.parquet": to_parquet([{"question": "1+1?", "answer": "2"}]),
            "test-1.parquet": to_parquet([{"question": "1+1?", "answer": "2"}])[:-20],
        },
        "me/spoiled": {"test.parquet": _spoil_pages(to_parquet([{"question": "1+1?", "answer": "2"}]))},
    }
    with use_hub(build_hub(files), monkeypatch, tmp_path):
        yield


@pytest.mark.usefixtures("hub")
def test_arc_rows_become_choice_problems_whatever_their_labels(tmp_path: Path) -> None:
    first, second = read_problems(ARC, tmp_path)
    assert (first.id, first.kind, first.answer, first.choices) == ("a", "choice", "C", [f"option {x}" for x in "ABCD"])
    assert (second.id, second.answer) == ("b", "B")


@pytest.mark.usefixtures("hub")
def test_config_and_split_choose_the_rows(tmp_path: Path) -> None:
    (row,) = read_problems(ARC.model_copy(update={"split": "train"}), tmp_path)
    assert (row.id, row.answer) == ("c", "E")


@pytest.mark.usefixtures("hub")
def test_a_plain_question_and_answer_dataset_needs_no_mapping(tmp_path: Path) -> None:
    (row,) = read_problems(DatasetSpec(hub="me/own"), tmp_path)
    assert (row.problem, row.answer, row.kind) == ("1+1?", "2", "math")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (ARC.model_copy(update={"split": "nowhere"}), "split nowhere"),
        (DatasetSpec(hub="no/such"), "no/such"),
        (DatasetSpec(hub="me/broken", split="test"), "field answer"),
        (DatasetSpec(hub="not a name"), "not a name"),
        (DatasetSpec(hub="me/damaged", split="test"), "test-1.parquet of the hub's dataset me/damaged .* after row 1"),
        (DatasetSpec(hub="me/spoiled", split="test"), "test.parquet of the hub's dataset me/spoiled"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, spec: DatasetSpec, named: str) -> None:
    with pytest.raises(DatasetError, match=named):
        count_problems(spec, tmp_path)


def test_a_hub_out_of_reach_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DatasetError, match="cannot be read"):
        count_problems(ARC, tmp_path)
