"""The engine of the local stack: a vLLM server on this machine's GPU where there is one, else on its CPU.

The CPU flags are measured (see `docs/local-stack.md`): short answers on a small model are bound by the prompt's tokens,
so that small cache blocks (siblings share more of their prefix) and both cores matter most.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SERVED_NAME = "drift"
MAX_MODEL_LEN = 2048


@dataclass(frozen=True)
class EngineCommand:
    """How to start the engine."""

    command: Sequence[str]
    environment: Mapping[str, str]
    device: str


@cache
def list_gpus() -> tuple[str, ...]:
    """The names of this machine's GPUs; none where no NVIDIA driver answers."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        told = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30).stdout
    except subprocess.TimeoutExpired:
        return ()
    return tuple(re.findall(r"^GPU \d+: (.+?)(?: \(UUID.*)?$", told, re.MULTILINE))


def engine_command(model: str, port: int, cores: int) -> EngineCommand:
    """The vLLM server for `model` (a folder or hub name), on loopback since its weight-reload routes are open."""
    gpu = bool(list_gpus())
    flags = [
        "--model", model, "--served-model-name", SERVED_NAME,
        "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "bfloat16",
        "--generation-config", "vllm",
        "--disable-uvicorn-access-log",
    ]  # fmt: skip
    environment = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if Path(model).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    if not gpu:
        flags += [
            "--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", "128", "--block-size", "32", "--enforce-eager",
            "--distributed-executor-backend", "uni",
        ]  # fmt: skip
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": "3",
            # The model runs inside the engine's own process, on every core. By default it has a process to itself and
            # one core less, and the two processes spin while they wait for each other.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(cores),
        }
    module = "vllm.entrypoints.openai.api_server"
    return EngineCommand([sys.executable, "-m", module, *flags], environment, "GPU" if gpu else "CPU")
