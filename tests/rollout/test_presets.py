"""Every preset reads rows as its hub dataset writes them, and prefers the file that lies in the data root."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from services.rollout.problems.dataset import Tally, count_problems, lies_at_hand, read_problems
from services.rollout.problems.layout import find_boxed
from services.rollout.problems.presets import PRESETS
from shared.errors import DatasetError
from shared.job import DatasetSpec
from shared.trajectory import Problem
from tests.fakes.hub import CONVERTED, build_hub, to_parquet, use_hub

ARC = {"id": "x", "question": "Q", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "3"}
REDUX = {"question": "Q", "choices": ["a", "b", "c", "d"], "answer": 2, "error_type": "ok", "correct_answer": None}
META = {"query": "Q", "original_question": "O", "response": "So\n#### 2\nThe answer is: \\frac{1}{2}"}
MATH = {
    "problem": "Q",
    "level": "Level 5",
    "type": "Algebra",
    "solution": "First \\boxed{3}, then $\\boxed{\\frac{1}{2}}$.",
}

HUB: Mapping[str, Mapping[str, list[Mapping[str, object]]]] = {
    "meta-math/MetaMathQA": {
        f"{CONVERTED}/default/train/0000.parquet": [
            META | {"type": "MATH_AnsAug"},
            META | {"type": "MATH_AnsAug"},
            META | {"type": "GSM_SV", "query": "other"},
            META | {"type": "MATH_FOBAR", "query": "Q2"},
        ]
    },
    "EleutherAI/hendrycks_math": {
        "algebra/test-00000-of-00001.parquet": [MATH],
        "geometry/test-00000-of-00001.parquet": [MATH],
        "geometry/train-00000-of-00001.parquet": [MATH],
    },
    "HuggingFaceH4/MATH-500": {
        f"{CONVERTED}/default/test/0000.parquet": [
            MATH | {"answer": "\\frac{1}{2}", "unique_id": "test/algebra/1.json", "subject": "Algebra", "level": 5}
        ]
    },
    "TIGER-Lab/TheoremQA": {
        "data/test-00000-of-00001.parquet": [{"Question": "Q", "Answer": " 1.0", "Picture": None}]
    },
    "edinburgh-dawg/mmlu-redux-2.0": {
        f"{CONVERTED}/anatomy/test/0000.parquet": [REDUX, REDUX | {"error_type": "expert"}],
        f"{CONVERTED}/virology/test/0000.parquet": [REDUX],
    },
    "TIGER-Lab/MMLU-Pro": {
        "data/validation-00000-of-00001.parquet": [],
        "data/test-00000-of-00001.parquet": [
            {"question_id": 70, "question": "Q", "options": ["a"] * 9 + ["z"], "answer": "J", "answer_index": 9}
        ],
    },
    "Idavidrein/gpqa": {
        f"{CONVERTED}/gpqa_diamond/train/0000.parquet": [
            {"Record ID": f"rec{n}", "Question": "Q", "Correct Answer": "right\n"}
            | {f"Incorrect Answer {place}": f"wrong {place}" for place in (1, 2, 3)}
            for n in range(20)
        ]
    },
    "allenai/ai2_arc": {
        "ARC-Easy/test-00000-of-00001.parquet": [ARC],
        "ARC-Challenge/test-00000-of-00001.parquet": [ARC | {"id": "hard"}],
    },
    "allenai/openbookqa": {
        "main/test-00000-of-00001.parquet": [ARC | {"question_stem": "Q", "question": ""}],
        "additional/test-00000-of-00001.parquet": [ARC],
    },
    "openai/gsm8k": {
        "main/test-00000-of-00001.parquet": [{"question": "Q", "answer": "2+2=4\n#### 1,004"}],
        "socratic/test-00000-of-00001.parquet": [{"question": "other", "answer": "#### 1"}],
    },
    "ChilleD/SVAMP": {
        "data/train-00000-of-00001.parquet": [
            {"ID": "chal-1", "Body": "Two apples.", "Question": "How many?", "Answer": "2.0"}
        ],
        "data/test-00000-of-00001.parquet": [
            {"ID": "chal-2", "Body": "Two pears.", "Question": "How many?", "Answer": "2.0"}
        ],
    },
}  # fmt: skip

GOLD = {
    "metamath_math": (2, "\\frac{1}{2}"),
    "math": (2, "\\frac{1}{2}"),
    "math500": (1, "\\frac{1}{2}"),
    "theoremqa": (1, "1.0"),
    "mmlu_redux": (3, "C"),
    "mmlu_redux_ok": (2, "C"),
    "mmlu_pro": (1, "J"),
    "arc_easy": (1, "C"),
    "arc_challenge": (1, "C"),
    "openbookqa": (1, "C"),
    "gsm8k": (1, "1,004"),
    "svamp": (2, "2.0"),
}
"""Preset -> (its rows among those above, the first one's gold answer)."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    files = {repo: {path: to_parquet(rows) for path, rows in held.items() if rows} for repo, held in HUB.items()}
    with use_hub(build_hub(files), monkeypatch, tmp_path):
        yield


def test_every_preset_is_tried() -> None:
    assert set(GOLD) | {"gpqa_diamond"} == set(PRESETS)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", GOLD)
def test_a_preset_reads_its_set_from_the_hub(name: str, tmp_path: Path) -> None:
    problems = list(read_problems(DatasetSpec(preset=name), tmp_path))
    assert (len(problems), problems[0].answer) == GOLD[name]
    assert {problem.kind for problem in problems} == {PRESETS[name].layout.kind}
    assert "Q" in problems[0].problem or problems[0].problem == "Two pears. How many?"


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "id"), [("math500", "test/algebra/1.json"), ("arc_easy", "x"), ("mmlu_pro", "70"), ("svamp", "chal-2")]
)
def test_a_problem_keeps_the_sets_own_id(name: str, id: str, tmp_path: Path) -> None:
    first = next(read_problems(DatasetSpec(preset=name), tmp_path))
    assert first.id == id


@pytest.mark.usefixtures("hub")
def test_gpqas_options_are_shuffled_alike_every_time(tmp_path: Path) -> None:
    first, again = (list(read_problems(DatasetSpec(preset="gpqa_diamond"), tmp_path)) for _ in range(2))
    assert first == again
    assert {str(problem.answer) for problem in first} == set("ABCD")
    for problem in first:
        assert problem.choices is not None
        assert sorted(problem.choices) == ["right", "wrong 1", "wrong 2", "wrong 3"]
        assert problem.choices["ABCD".index(str(problem.answer))] == "right"


def test_a_gated_set_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = f"{CONVERTED}/gpqa_diamond/train/0000.parquet"
    app = build_hub({"Idavidrein/gpqa": {path: b""}}, gated={"Idavidrein/gpqa"})
    with use_hub(app, monkeypatch, tmp_path), pytest.raises(DatasetError, match=r"accepted its terms.*HF_TOKEN"):
        count_problems(DatasetSpec(preset="gpqa_diamond"), tmp_path)
    header = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n"
    (tmp_path / "gpqa_diamond.csv").write_text(f"{header}rec1,Q,right,w1,w2,w3\n")
    (problem,) = read_problems(DatasetSpec(preset="gpqa_diamond"), tmp_path)
    assert sorted(problem.choices or ()) == ["right", "w1", "w2", "w3"]


def test_a_file_in_the_data_root_comes_before_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    own = Problem(id="own", kind="choice", problem="Q", answer="B", choices=["a", "b"])
    (tmp_path / "arc_easy_train.jsonl").write_text(own.model_dump_json())
    (tmp_path / "mmlu_redux.jsonl").write_text(
        "".join(json.dumps(own.model_dump() | {"error_type": kind}) + "\n" for kind in ("ok", "expert"))
    )
    assert list(read_problems(DatasetSpec(preset="arc_easy", split="train"), tmp_path)) == [own]
    assert lies_at_hand(DatasetSpec(preset="arc_easy", split="train"), tmp_path)
    assert not lies_at_hand(DatasetSpec(preset="arc_easy"), tmp_path)
    assert count_problems(DatasetSpec(preset="mmlu_redux"), tmp_path).problems == 2
    assert count_problems(DatasetSpec(preset="mmlu_redux_ok"), tmp_path).problems == 1


def test_a_bad_row_of_a_preset_is_named_and_can_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "gsm8k_test.jsonl").write_text(
        '{"question": "Q", "answer": "no mark"}\n{"question": "Q", "answer": "#### 4"}\n{"answer": "#### 4"}\n'
    )
    spec = DatasetSpec(preset="gsm8k")
    with pytest.raises(DatasetError, match=r"gsm8k_test\.jsonl, line 1, field answer: no '####'"):
        count_problems(spec, tmp_path)
    tally = Tally()
    (kept,) = read_problems(spec.model_copy(update={"on_bad_row": "skip"}), tmp_path, tally)
    assert kept.answer == "4"
    assert tally.skipped == 2
    assert "line 3, field question: missing" in tally.reasons[1]


@pytest.mark.parametrize(
    ("spec", "named"), [({"preset": "nonsense"}, "metamath_math"), ({"preset": "gsm8k", "split": "dev"}, "train, test")]
)
def test_an_unknown_preset_or_split_names_those_that_are(spec: dict[str, str], named: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=named):
        count_problems(DatasetSpec.model_validate(spec), tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"config": "x", "path": "a.csv"},
        {"split": "x", "path": "a.csv"},
        {"preset": "math", "columns": {"id": "x"}},
        {"preset": "math", "answer_form": "index"},
        {"path": "a.csv", "answer_form": "label", "columns": {"choices": ["a", "b"]}},
    ],
)
def test_fields_that_would_have_no_effect_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"belongs to|leave out|wants one column"):
        DatasetSpec.model_validate(fields)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1}, so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"$\fbox{ 7 }$", "7"),
        (r"$\boxed 5$.", "5"),
    ],
)
def test_the_last_box_wins_with_its_braces_balanced(text: str, answer: str) -> None:
    assert find_boxed(text) == answer
