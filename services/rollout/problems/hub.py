"""Rows of Hugging Face datasets: their Parquet files, read in batches, brought into this project's fields."""

from collections.abc import Callable, Iterator, Mapping

import httpx
import pyarrow.parquet as pq
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RevisionNotFoundError

from shared.errors import DatasetError

Row = Mapping[str, object]

_FAULTS = (httpx.HTTPError, HFValidationError, OfflineModeIsEnabled, OSError)
"""How the hub's client says that the hub, the dataset or the revision cannot be had."""

_CONVERTED = "refs/convert/parquet"
"""Where the hub keeps every dataset as Parquet, whatever its own format."""


def read_rows(repo: str, config: str | None, split: str) -> Iterator[Row]:
    """The rows of one split as this project's fields; raises `DatasetError` where they cannot be had."""
    number = 0
    adapt = _ADAPTERS.get(repo, _adapt_plain)
    for file, revision in _find_files(repo, config, split):
        try:
            path = hf_hub_download(repo, file, repo_type="dataset", revision=revision)
        except _FAULTS as error:
            raise _unreachable(repo, error) from error
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                try:
                    yield adapt(row, f"{repo.replace('/', '-')}-{config or 'default'}-{split}-{number}")
                except (KeyError, ValueError, IndexError, TypeError) as error:
                    raise DatasetError(
                        f"Row {number} of the hub's dataset {repo} is not as expected: {error!r}.",
                        remedy="Check `config` and `split`, or bring the rows into a file under DRIFT_DATA_ROOT.",
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
        f"The hub's dataset {repo} has no Parquet files for config {config or 'default'}, split {split}.",
        remedy="Name its `config` and `split` as the hub shows them.",
    )


def _holds(name: str, config: str | None, split: str) -> bool:
    *folders, file = name.split("/")
    named = not config or config in folders
    return named and (file.startswith(f"{split}-") or file == f"{split}.parquet" or split in folders)


def _unreachable(repo: str, error: Exception) -> DatasetError:
    return DatasetError(
        f"The hub's dataset {repo} cannot be read: {type(error).__name__}: {str(error)[:300]}.",
        remedy="Check its name, the network and HF_TOKEN, or use a file under DRIFT_DATA_ROOT.",
    )


def _adapt_plain(row: Row, id: str) -> Row:
    return {"id": id, "problem": row.get("problem") or row.get("question")} | {
        name: value for name, value in row.items() if value is not None
    }


def _adapt_arc(row: Row, id: str) -> Row:
    """AI2 ARC: options {text, label}; some items are labelled 1-4, which become letters."""
    options = row["choices"]
    if not isinstance(options, dict):
        raise TypeError("choices is not an object with text and label")
    place = list(options["label"]).index(row["answerKey"])
    return {
        "id": str(row.get("id") or id),
        "kind": "choice",
        "problem": row["question"],
        "answer": "ABCDEFGHIJ"[place],
        "choices": list(options["text"]),
    }


def _adapt_gsm8k(row: Row, id: str) -> Row:
    return {
        "id": id,
        "kind": "math",
        "problem": row["question"],
        "answer": str(row["answer"]).rpartition("####")[2].strip(),
    }


_ADAPTERS: dict[str, Callable[[Row, str], Row]] = {"allenai/ai2_arc": _adapt_arc, "openai/gsm8k": _adapt_gsm8k}
"""Datasets whose fields have other names than this project's."""
