"""The starter job file is a job, also with every comment taken away, and never overwrites one; JSON is read, too."""

import json
import re
from pathlib import Path

import pytest
import yaml

from cli.commands.jobs import read_job
from cli.job_file import write_job_file
from shared.errors import Conflict, SpecError
from shared.job import JobSpec


def test_the_starter_is_a_job(tmp_path: Path) -> None:
    write_job_file(tmp_path / "job.yaml")
    spec = JobSpec.model_validate(yaml.safe_load((tmp_path / "job.yaml").read_text()))
    assert spec.train and spec.dataset


def test_what_is_commented_out_is_valid_too_and_shows_the_defaults(tmp_path: Path) -> None:
    write_job_file(tmp_path / "job.yaml")
    text = (tmp_path / "job.yaml").read_text()
    text = re.sub(r"^(\s*)# (\s*)(- )?(\w+:.*)$", r"\1\2\3\4", text, flags=re.MULTILINE)
    read = yaml.safe_load(re.sub(r"^\s*hub:.*$", "", text, flags=re.MULTILINE))
    spec = JobSpec.model_validate(read)
    plain = JobSpec.model_validate({"dataset": {"path": "questions.csv"}, "train": {"epochs": 1}})
    assert spec.protocol == plain.protocol and spec.returns == plain.returns
    assert spec.train and plain.train and spec.train.epsilon == plain.train.epsilon


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("mine")
    with pytest.raises(Conflict):
        write_job_file(path)
    assert path.read_text() == "mine"


def test_json_may_be_indented_with_tabs(tmp_path: Path) -> None:
    spec = {"name": "mine", "dataset": {"path": "a.csv"}, "train": {"learning_rate": 5e-5}}
    path = tmp_path / "job.json"
    path.write_text(json.dumps(spec, indent="\t"))
    assert json.loads(read_job(path)) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [('{\n\t"name": "mine"\n\t"train": {}\n}', "',' delimiter: line 3"), ("name: mine\ntrain: [", "line 2, column 9")],
)
def test_what_is_neither_json_nor_yaml_is_refused_with_the_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "job"
    path.write_text(text)
    with pytest.raises(SpecError, match=f"neither JSON nor YAML(.|\n)*{said}"):
        read_job(path)
