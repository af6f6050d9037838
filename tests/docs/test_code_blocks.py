"""Every code block of the README and the documentation is run, or checked as far as a test can.

Commands that start a whole stack are run by tests of their own; here they must at least exist. A block of a kind that
this file does not know fails: say here how it is run.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import yaml
from typer.main import get_command

from cli.main import app as command_line
from cli.study.study_file import Study
from services.rollout.app import create_app
from services.rollout.problems.dataset import count_problems
from services.rollout.settings import RolloutSettings
from shared.job import DatasetSpec, JobSpec
from tests.fakes.engine import Serving

ROOT = Path(__file__).parents[2]
SHOWN = ("text", "")
"""Output, formulas and pictures."""
CHECKED = ("up", "down", "status", "demo", "doctor", "submit", "reweight", "study")
"""Commands of `drift` that are not run."""
_ROLLOUT = r"(localhost|127\.0\.0\.1):8000"
_VERIFIER = r"(localhost|127\.0\.0\.1):8001"


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def find_blocks() -> Iterator[Block]:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text()
        for match in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            yield Block(str(page.relative_to(ROOT)), line, match[1], match[2])


BLOCKS = [block for block in find_blocks() if block.language not in SHOWN]


def blocks(*languages: str) -> pytest.MarkDecorator:
    chosen = [block for block in BLOCKS if block.language in languages]
    return pytest.mark.parametrize("block", chosen, ids=str)


def test_every_kind_of_block_is_known() -> None:
    known = ("json", "yaml", "csv", "python", "bash")
    assert not [str(block) for block in BLOCKS if block.language not in known]


@blocks("json", "yaml")
def test_specs_are_accepted(block: Block) -> None:
    read = json.loads(block.text) if block.language == "json" else yaml.safe_load(block.text)
    if isinstance(read, dict) and {"dataset", "evaluate"} & set(read):
        JobSpec.model_validate(read)
    if isinstance(read, dict) and "methods" in read:
        Study.model_validate(read)


@blocks("csv")
def test_tables_are_read_as_problems(block: Block, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(block.text)
    assert count_problems(DatasetSpec(path="table.csv"), tmp_path).problems == block.text.strip().count("\n")


@blocks("python")
def test_programs_run(block: Block, verifier_url: str, tmp_path: Path) -> None:
    program = re.sub(_VERIFIER, verifier_url.removeprefix("http://"), block.text)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment, timeout=180)


@pytest.fixture
def rollout(settings: RolloutSettings) -> Iterator[httpx.Client]:
    """A rollout service with one job that is over, called JOB in the documentation."""
    with Serving(create_app(settings)) as url, httpx.Client(base_url=url, timeout=60) as client:
        problems = [{"id": "1", "kind": "choice", "problem": "?", "answer": "B", "choices": ["x", "y"]}]
        _finish(client, {"dataset": {"problems": problems}})
        yield client


def _finish(client: httpx.Client, spec: dict[str, object]) -> None:
    job = client.post("/v1/jobs", json=spec).raise_for_status().json()["id"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if client.get(f"/v1/jobs/{job}").json()["state"] == "succeeded":
            return
        time.sleep(0.05)
    raise TimeoutError(job)


@blocks("bash")
def test_commands_run(block: Block, rollout: httpx.Client, verifier_url: str, tmp_path: Path) -> None:
    job = rollout.get("/v1/jobs").json()["jobs"][0]["id"]
    text = re.sub(r"\bJOB\b", job, block.text.replace("\\\n", " "))
    text = re.sub(_ROLLOUT, str(rollout.base_url.netloc, "ascii"), text)
    text = re.sub(_VERIFIER, verifier_url.removeprefix("http://"), text)
    spec = {"dataset": {"problems": [{"id": "1", "problem": "1 + 1", "answer": "2"}]}}
    (tmp_path / "job.json").write_text(json.dumps(spec))
    (tmp_path / "questions.csv").write_text("problem,answer\n1 + 1,2\n")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DRIFT_ROLLOUT_PORT": str(rollout.base_url.port),
    }
    for command in _split_commands(text):
        words = shlex.split(command, comments=True)
        if not _only_checked(words):
            bash = shutil.which("bash") or "bash"
            ended = subprocess.run(
                [bash, "-ec", command], cwd=tmp_path, env=environment, timeout=180, capture_output=True, text=True
            )
            assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"


def _split_commands(text: str) -> Iterator[str]:
    """One command a line; a quoted argument may go over several."""
    command = ""
    for line in text.splitlines():
        command += line + "\n"
        if command.count("'") % 2 == 0 and command.strip():
            yield command
            command = ""
    assert not command.strip()


def _only_checked(words: list[str]) -> bool:
    """Whether a command starts more than a test may, or waits for a trainer; then it must exist, with its options."""
    match words:
        case []:
            return True
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            return True
        case ["pip", "install", requirement]:
            extra = requirement.removeprefix(".[").removesuffix("]")
            assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            return True
        case ["python", "-m", module, *_]:
            assert find_spec(module) is not None
            return True
        case ["torchrun", *options]:
            assert find_spec(options[options.index("-m") + 1]) is not None
            return True
        case ["docker", "compose", *_] | ["git", *_] | ["kubectl", *_] | ["sbatch", *_]:
            return True
        case ["drift", name, *options] if name in CHECKED:
            _check_options(name, options)
            return name not in ("submit", "reweight") or "--train" in options
        case _:
            return False


def _check_options(name: str, options: list[str]) -> None:
    command = get_command(command_line)
    context = command.make_context("drift", [name, *options], resilient_parsing=True)
    found = command.get_command(context, name)  # pyright: ignore[reportAttributeAccessIssue]
    assert found is not None, name
    known = {flag for parameter in found.params for flag in parameter.opts}
    assert not [option for option in options if option.startswith("--") and option.split("=")[0] not in known]
