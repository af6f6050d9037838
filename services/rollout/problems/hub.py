"""Rows of Hugging Face datasets: their Parquet files, read in batches."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from services.rollout.problems.files import Row, read_parquet
from shared.errors import DatasetError

SPLIT = "train"
"""Taken where a job names none."""

_FAULTS = (httpx.HTTPError, HFValidationError, OfflineModeIsEnabled, OSError)
"""How the hub's client says that the hub, the dataset or the revision cannot be had."""

_CONVERTED = "refs/convert/parquet"
"""Where the hub keeps every dataset as Parquet, whatever its own format."""


def read_rows(repo: str, config: str | None, split: str) -> Iterator[tuple[str, Row]]:
    """Every row with its place; raises `DatasetError` where they cannot be had."""
    name = f"{repo}:{config or 'all'}/{split}"
    number = 0
    for file, revision in _find_files(repo, config, split):
        try:
            path = hf_hub_download(repo, file, repo_type="dataset", revision=revision)
        except GatedRepoError as error:
            raise DatasetError(
                f"The hub gives {repo} only to those who have accepted its terms.",
                remedy="Accept them on its page and set HF_TOKEN, or put the set's file into DRIFT_DATA_ROOT.",
            ) from error
        except _FAULTS as error:
            raise _unreachable(repo, error) from error
        try:
            for row in read_parquet(Path(path)):
                number += 1
                yield f"{name}, row {number}", row
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                f"{file} of the hub's dataset {repo} cannot be read, after row {number} of {name}: {error}.",
                remedy=f"If the hub's own file is sound, delete the copy {Path(path).resolve()} and submit again.",
            ) from error


def _find_files(repo: str, config: str | None, split: str) -> list[tuple[str, str]]:
    for revision in ("main", _CONVERTED):
        try:
            names = HfApi().list_repo_files(repo, repo_type="dataset", revision=revision)
        except RevisionNotFoundError:
            continue
        except _FAULTS as error:
            raise _unreachable(repo, error) from error
        found = sorted(name for name in names if name.endswith(".parquet") and _holds(name, config, split))
        if found:
            return [(name, revision) for name in found]
    raise DatasetError(
        f"The hub's dataset {repo} has no Parquet files for config {config or 'any'}, split {split}.",
        remedy="Name its `config` and `split` as the hub shows them.",
    )


def _holds(name: str, config: str | None, split: str) -> bool:
    *folders, file = name.split("/")
    named = not config or config in folders
    return named and (split == "all" or file.startswith(f"{split}-") or file == f"{split}.parquet" or split in folders)


def _unreachable(repo: str, error: Exception) -> DatasetError:
    return DatasetError(
        f"The hub's dataset {repo} cannot be read: {type(error).__name__}: {str(error)[:300]}.",
        remedy="Check its name, the network and HF_TOKEN, or use a file under DRIFT_DATA_ROOT.",
    )
