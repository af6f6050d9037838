"""Where the demo's problems come from: files at hand, else the hub, else the project's own generator."""

import os
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import constants

from cli.generator import generate
from shared.job import DatasetSpec

TRAIN_FILE, TEST_FILE = "arc_easy_train.jsonl.gz", "arc_easy_test.jsonl.gz"
HUB, CONFIG = "allenai/ai2_arc", "ARC-Easy"
PROBE_S = 5.0
SHUFFLE_SEED = 17


@dataclass(frozen=True)
class Problems:
    """Disjoint training and held-out problems, and in words where they are from."""

    train: DatasetSpec
    test: DatasetSpec
    origin: str


def choose_problems(data_root: Path, train: int, test: int) -> Problems:
    """`train` and `test` problems from the first source that has them."""
    if all((data_root / name).is_file() for name in (TRAIN_FILE, TEST_FILE)):
        return Problems(
            DatasetSpec(path=TRAIN_FILE, limit=train, shuffle_seed=SHUFFLE_SEED),
            DatasetSpec(path=TEST_FILE, limit=test, shuffle_seed=SHUFFLE_SEED),
            f"ARC-Easy, from {data_root}",
        )
    if _hub_answers():
        return Problems(
            DatasetSpec(hub=HUB, config=CONFIG, split="train", limit=train, shuffle_seed=SHUFFLE_SEED),
            DatasetSpec(hub=HUB, config=CONFIG, split="test", limit=test, shuffle_seed=SHUFFLE_SEED),
            f"ARC-Easy, from the hub ({HUB})",
        )
    made = generate(train, test, SHUFFLE_SEED)
    return Problems(
        DatasetSpec(problems=made.train),
        DatasetSpec(problems=made.test),
        f"the project's own generator: no {TRAIN_FILE} in {data_root} (DRIFT_DATA_ROOT), and no hub in reach",
    )


def _hub_answers() -> bool:
    if constants.HF_HUB_OFFLINE:
        return False
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
    try:
        reply = httpx.get(f"{endpoint}/api/datasets/{HUB}", timeout=PROBE_S, follow_redirects=True)
    except httpx.HTTPError:
        return False
    return reply.status_code == httpx.codes.OK
