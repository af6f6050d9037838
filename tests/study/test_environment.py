"""On what a study ran: named as far as the system says it, and never taken from another machine or another time."""

import json
import subprocess
from pathlib import Path

import pytest

from cli.study import environment
from cli.study.environment import describe_environment, describe_hardware, find_commit
from cli.study.ledger import Ledger
from shared import __version__


def git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@localhost")
    return subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_checkout_tells_its_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert find_commit(tmp_path) is None
    git(tmp_path, "init")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    git(tmp_path, "tag", "-m", "a name that says less", "v1")
    commit = find_commit(tmp_path)
    assert commit and git(tmp_path, "rev-parse", "HEAD").startswith(commit)
    (tmp_path / "file").write_text("two")
    assert find_commit(tmp_path) == f"{commit}-dirty"


def test_processor_gpus_and_version_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Quick 9000\n\nprocessor\t: 1\nmodel name\t: Quick 9000\n")
    monkeypatch.setattr(environment, "_CPUINFO", cpuinfo)
    monkeypatch.setattr(environment, "list_gpus", lambda: ("H100", "H100", "L4"))
    told = describe_environment()
    assert (told["processor"], told["gpus"]) == ("Quick 9000", "2 x H100, 1 x L4")
    assert told["drift"].startswith(__version__) and "machine" in told and "torch" in told


@pytest.mark.parametrize("same", [True, False])
def test_a_folder_that_names_no_processor_gets_this_ones_only_on_the_same_machine(
    same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "list_gpus", lambda: ("L4",))
    machine = describe_hardware()["machine"] if same else "riscv, 512 cores, 1 GiB"
    held = {"machine": machine, "python": "3.10.0"}
    (tmp_path / "study.json").write_text(json.dumps({"study": "old", "environment": held, "jobs": {}}))
    assert Ledger(tmp_path, "old").environment == (describe_hardware() | held if same else held)
