"""The new-job form: what is filled from a job is that job again, and what is wrong is said as the API says it."""

from typing import Any

import pytest

from services.rollout.dashboard.forms import FIELDS, read_form, write_form
from services.rollout.routes import examples
from shared.errors import SpecError
from shared.job import JobSpec

PROBLEMS = [{"id": "1", "problem": 'Say "é", it\'s\n5?', "answer": ["5", "five"]}, {"id": "2", "problem": "?", "answer": "B", "kind": "choice", "choices": ["x", "y"]}]  # fmt: skip # noqa: E501
SPECS: list[dict[str, Any]] = [
    *(one["value"] for one in examples.SPECS.values()),
    {"dataset": {"problems": PROBLEMS, "limit": 1}},
    {"dataset": {"preset": "gsm8k", "split": "train"}, "evaluate": [{"preset": "math500", "limit": 5}]},
    {"dataset": {"path": "a.csv", "columns": {"problem": "q", "choices": ["a", "b"]}, "on_bad_row": "skip"}},
    {"dataset": {"path": "a.csv"}, "train": {"steps": 3, "lora": {"r": 4}, "objective": "star", "held_out": 0.25}},
    {
        "dataset": {"path": "a.csv"},
        "train": {"epochs": 0.5},
        "refresh": {"stages": 2},
        "evaluate": [{"path": "b.csv"}, {"hub": "o/n"}],
    },
    {"dataset": {"path": "a.csv"}, "evaluate": [{"problems": PROBLEMS}]},
    {"rollouts_of": "20260101-000000-abcdef", "train": {}},
    {"dataset": {"path": "a.csv"}, "protocol": {"template": "{{ problem }}\n?", "evaluation_template": "plain"}},
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_form_filled_from_a_job_is_that_job_again(spec: dict[str, Any]) -> None:
    wanted = JobSpec.model_validate(spec)
    fields = write_form(wanted)
    assert set(fields) <= {*FIELDS, "pasted", "more"}
    assert read_form(fields) == wanted


def test_every_field_is_one_of_a_spec() -> None:
    whole = JobSpec.model_json_schema()
    for path in FIELDS:
        schema = whole
        for name in path.split("."):
            assert name in schema["properties"], path
            schema = _resolve(whole, schema["properties"][name])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pasted": "problem,answer\n?,1", "dataset.path": "a.csv"}, "exactly one of"),
        ({"dataset.path": "a.csv", "train.steps": "3"}, "no objective"),
        ({"dataset.path": "a.csv", "more": "{"}, "Other fields"),
        ({"dataset.path": "a.csv", "more": "[]"}, "no object"),
        ({"dataset.path": "a.csv", "more": '{"dataset": 3}'}, "dataset is no object"),
        ({"dataset.path": "a.csv", "sampling.trajectories": "many"}, "sampling.trajectories"),
        ({"pasted": '{"id": "1", "problem": "?"}'}, "field answer"),
        ({"pasted": "problem,answer\nWhat is 1,000 + 1?,1001"}, "more cells than the header"),
        ({"pasted": 'problem,answer\n"a' + "x" * (17 << 20) + '",1'}, "Pasted problems: field larger"),
        ({"dataset.path": "a.csv", "more": "[" * 100_000}, "Other fields"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, str], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        read_form(fields)


def _resolve(whole: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The object beneath a reference, an optional or a list."""
    for one in (schema, schema.get("items", {}), *schema.get("anyOf", [])):
        if "$ref" in one:
            return whole["$defs"][one["$ref"].rsplit("/", 1)[-1]]
    return schema
