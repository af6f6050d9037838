"""What the verifier may be told, from the environment: `DRIFT_` and the field's name."""

import os
from typing import Annotated

from pydantic import Field

from shared.settings import Settings


class VerifierSettings(Settings):
    """Address, limits and the size of the symbolic tier."""

    verifier_host: str = "127.0.0.1"
    """Address to listen on; beyond loopback, set DRIFT_API_KEYS too."""
    verifier_port: Annotated[int, Field(ge=1, le=65535)] = 8001
    """Port to listen on."""
    verifier_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Server processes behind one port; they share nothing, each has its own symbolic workers, cache and metrics."""
    verifier_workers: Annotated[int, Field(ge=1, le=64)] = max(2, 2 * len(os.sched_getaffinity(0)))
    """Symbolic workers of one server process; more than its cores, so that a slow task leaves room for quick ones."""
    verifier_worker_memory_mb: Annotated[int, Field(ge=128, le=65536)] = 768
    """Address space that one symbolic worker may use; beyond it the task ends with the verdict `error`."""
    verifier_worker_tasks: Annotated[int, Field(ge=1)] = 500
    """Tasks after which a symbolic worker is replaced by a fresh one."""
    verifier_deadline_ms: Annotated[int, Field(ge=10, le=60_000)] = 2_000
    """Longest time a symbolic task may run, counted from its dispatch, where the item names none."""
    verifier_queue: Annotated[int, Field(ge=1)] = 4_096
    """Most items in the server at once; beyond it requests are refused with 429, except to an idle server."""
    verifier_cache: Annotated[int, Field(ge=0)] = 65_536
    """Most decisions kept, by gold and extracted answer; the least recently used goes first."""
    verifier_max_body_mb: Annotated[int, Field(ge=1, le=1024)] = 32
    """Largest request body; beyond it requests are refused with 413."""
    verifier_rate: Annotated[float, Field(gt=0)] = 2_000.0
    """Requests a second of one key at one server process, where there are keys; beyond it they are refused with 429."""
