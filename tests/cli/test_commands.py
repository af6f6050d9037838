"""The job commands against a running service, as a user types them."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from cli.main import app
from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings
from shared import keys
from shared.stream import connect
from shared.trajectory import Trajectory
from tests.fakes.engine import Serving
from tests.rollout.client import PROBLEMS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(settings: RolloutSettings) -> Iterator[str]:
    with Serving(create_app(settings)) as served:
        yield served


def drift(*arguments: str, cwd: Path, given: str | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=cwd, input=given, capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip


def drift_here(*arguments: str, given: str | None = None) -> str:
    """What a command that succeeds says on standard output; without a process of its own."""
    ended = CliRunner().invoke(app, arguments, input=given, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


@pytest.mark.slow
def test_a_job_goes_from_a_yaml_file_to_its_export_and_to_another_training(url: str, tmp_path: Path) -> None:
    spec = {"name": "mine", "dataset": {"problems": PROBLEMS}, "sampling": {"trajectories": 2}}
    (tmp_path / "job.yaml").write_text(f"# a comment\n{yaml.safe_dump(spec)}")
    first, again = (drift("submit", "job.yaml", "--key", "once", "--url", url, cwd=tmp_path) for _ in range(2))
    assert first.returncode == 0, first.stderr
    job = first.stdout.strip()
    assert again.stdout.strip() == job

    watched = drift("watch", job, "--json", "--url", url, cwd=tmp_path)
    assert watched.returncode == 0, watched.stderr
    assert json.loads(watched.stdout)["state"] == "succeeded"
    assert job in drift("jobs", "--url", url, cwd=tmp_path).stdout

    saved = drift("export", job, "--format", "parquet", "-o", "out.parquet", "--json", "--url", url, cwd=tmp_path)
    assert json.loads(saved.stdout)["path"] == "out.parquet"
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 2 * len(PROBLEMS)
    twice = drift("export", job, "--format", "parquet", "-o", "out.parquet", "--url", url, cwd=tmp_path)
    assert (twice.returncode, "--force" in twice.stderr) == (1, True)

    files = json.loads(drift("report", job, "-o", "told", "--json", "--url", url, cwd=tmp_path).stdout)["files"]
    assert files[0] == "told/report.md"
    assert {"told/report.json", "told/figures/rollouts.svg"} <= set(files)
    for name in files:
        assert (tmp_path / name).stat().st_size
    assert drift("report", job, "-o", "told", "--url", url, cwd=tmp_path).returncode == 1

    report = drift("reweight", job, "--beta", "0.5", "--lambda", "1", "--json", "--url", url, cwd=tmp_path)
    seen = json.loads(report.stdout)
    assert seen["job"] is None
    assert (seen["weights"]["returns"]["beta"], seen["weights"]["returns"]["repeat_penalty"]) == (0.5, 1)
    assert "12 of 12" in drift("reweight", job, "--url", url, cwd=tmp_path).stdout

    training = drift("reweight", job, "--gamma", "0.5", "--objective", "star", "--train", "--json", "--url", url, cwd=tmp_path)  # fmt: skip # noqa: E501
    other = json.loads(training.stdout)["job"]
    deadline = time.monotonic() + 60
    while json.loads(drift("show", other, "--json", "--url", url, cwd=tmp_path).stdout)["phase"] != "train":
        assert time.monotonic() < deadline
    assert drift("cancel", other, "--url", url, cwd=tmp_path).returncode == 0
    assert drift("watch", other, "--url", url, cwd=tmp_path).returncode == 1


async def roll_out_again(redis_url: str, job: str) -> None:
    """Leave what a second stage does: trajectories of the policy that the first has trained."""
    redis = connect(redis_url)
    for _, fields in await redis.xrange(keys.trajectories(job)) or []:
        first = Trajectory.model_validate_json((fields or {})["trajectory"])
        second = first.model_copy(update={"stage": 1, "policy": "stage-1"})
        await redis.xadd(keys.trajectories(job), {"trajectory": second.model_dump_json()})
    await redis.aclose()


def test_reweight_reports_on_the_last_stage_and_before_a_training_on_the_first_which_it_trains_on(
    url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = json.dumps({"dataset": {"problems": PROBLEMS[:2]}, "sampling": {"trajectories": 2}})
    job = json.loads(drift_here("submit", "-", "--watch", "--json", "--url", url, given=spec).splitlines()[0])["id"]
    asyncio.run(roll_out_again(redis_url, job))
    for options, part in [((), "rollout-1"), (("--train",), "rollout-0")]:
        assert json.loads(drift_here("reweight", job, "--json", "--url", url, *options))["weights"]["part"] == part


@pytest.mark.slow
def test_what_a_user_has_to_mend_is_said_and_ends_with_2(url: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    for arguments, given, said in [
        (("submit", "bad.yaml"), None, "neither JSON nor YAML"),
        (("submit", "-"), "[]", "holds no job"),
        (("submit", "-"), '{"dataset": {"preset": "nonsense"}}', "There is no preset"),
        (("show", "20260101-000000-abcdef"), None, "There is no job"),
        (("export", "20260101-000000-abcdef"), None, "There is no job"),
        (("reweight", "20260101-000000-abcdef"), None, "There is no job"),
        (("reweight", "20260101-000000-abcdef", "--beta", "5000", "--train"), None, "beta: Input should be less"),
    ]:
        ended = drift(*arguments, "--url", url, cwd=tmp_path, given=given)
        assert (ended.returncode, said in ended.stderr) == (2, True), f"{arguments}: {ended.stderr}"
        assert "Traceback" not in ended.stderr
    assert list(tmp_path.glob(".*.part")) == []
    listed = drift("presets", "--url", url, cwd=tmp_path)
    assert "gpqa_diamond" in listed.stdout and "gated" in listed.stdout


def walk(command: object, name: str) -> Iterator[tuple[str, TyperCommand]]:
    """Every command with what is typed to run it."""
    if isinstance(command, TyperGroup):
        for part in command.commands.values():
            yield from walk(part, f"{name} {part.name}")
    else:
        assert isinstance(command, TyperCommand)
        yield name, command


COMMANDS = list(walk(get_command(app), "drift"))


@pytest.mark.parametrize(("typed", "command"), COMMANDS, ids=[typed for typed, _ in COMMANDS])
def test_every_command_has_help_with_an_example_and_speaks_to_machines(typed: str, command: TyperCommand) -> None:
    said, _, example = (command.help or "").partition("Example: ")
    assert said.strip().endswith("."), "say what it does"
    assert example.startswith(typed)
    assert any("--json" in option.opts for option in command.params)
    undescribed = [option.name for option in command.params if not getattr(option, "help", None)]
    assert undescribed in ([], ["help"])


def test_the_exit_codes_are_in_the_help() -> None:
    shown = drift("--help", cwd=ROOT).stdout
    assert "Exit codes" in shown and "Ctrl-C" in shown


def test_without_a_stack_machines_hear_so_on_standard_output_alone(tmp_path: Path) -> None:
    for arguments, code, said in [(("status", "--json"), 1, None), (("down", "--json"), 0, {"stopped": None})]:
        ended = drift(*arguments, cwd=tmp_path)
        assert (ended.returncode, json.loads(ended.stdout), ended.stderr) == (code, said, "")


def test_what_was_mistyped_is_named_without_a_traceback(tmp_path: Path) -> None:
    for arguments, said in [
        (("init", "nowhere/job.yaml"), "nowhere/job.yaml: No such file or directory."),
        (("verify", "1", "-a", "1", "--kind", "maths"), "kind: Input should be 'math', 'choice' or 'string'."),
    ]:
        ended = drift(*arguments, cwd=tmp_path)
        assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
        assert said in ended.stderr and "Traceback" not in ended.stderr


def test_a_job_file_is_written_once(tmp_path: Path) -> None:
    assert json.loads(drift("init", "--json", cwd=tmp_path).stdout) == {"path": "job.yaml"}
    again = drift("init", "--json", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert "job.yaml is there already" in again.stderr
