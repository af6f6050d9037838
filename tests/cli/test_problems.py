"""The demo's problems come from the first of three sources that has them, and the output says from which."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cli.demo import make_job
from cli.problems import CONFIG, HUB, TEST_FILE, TRAIN_FILE, choose_problems
from services.rollout.problems.dataset import read_problems
from shared.job import JobSpec
from tests.fakes.http import serve


@contextmanager
def hub(status: int) -> Iterator[str]:
    """A hub on loopback that answers `status` to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serve(Handler) as url:
        yield url


def write_file(path: Path, rows: int) -> None:
    with gzip.open(path, "wt") as file:
        for number in range(rows):
            row = {"id": f"{path.name}-{number}", "kind": "choice", "problem": f"{number}?", "answer": "A"}
            file.write(json.dumps(row | {"choices": ["a", "b", "c", "d"]}) + "\n")


def test_files_at_hand_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / TRAIN_FILE, 6)
    write_file(tmp_path / TEST_FILE, 6)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    problems = choose_problems(tmp_path, train=4, test=5)
    assert str(tmp_path) in problems.origin
    assert len(list(read_problems(problems.train, tmp_path))) == 4
    held_out = list(read_problems(problems.test, tmp_path))
    assert len(held_out) == 5
    assert all(problem.id.startswith(TEST_FILE) for problem in held_out)


def test_without_files_the_hub_is_named_where_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(200) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        problems = choose_problems(tmp_path, train=4, test=5)
    assert HUB in problems.origin
    assert (problems.train.hub, problems.train.config, problems.train.split, problems.train.limit) == (
        HUB, CONFIG, "train", 4,
    )  # fmt: skip
    assert (problems.test.split, problems.test.limit) == ("test", 5)


@pytest.mark.parametrize("status", [None, 404, 500])
def test_without_files_and_hub_the_projects_own_problems_are_used_and_this_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int | None
) -> None:
    if status is None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
        problems = choose_problems(tmp_path, train=128, test=256)
    else:
        with hub(status) as url:
            monkeypatch.setenv("HF_ENDPOINT", url)
            problems = choose_problems(tmp_path, train=128, test=256)
    assert "own generator" in problems.origin
    assert "DRIFT_DATA_ROOT" in problems.origin
    assert problems.train.problems is not None
    assert problems.test.problems is not None
    assert (len(problems.train.problems), len(problems.test.problems)) == (128, 256)


def test_the_demos_job_survives_its_way_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    job = make_job(choose_problems(tmp_path, train=4, test=4))
    assert JobSpec.model_validate_json(job.model_dump_json(exclude_defaults=True)) == job
    assert job.train is not None
