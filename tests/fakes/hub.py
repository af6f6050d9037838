"""A hub that serves dataset files: the two routes that `huggingface_hub` uses to list and to fetch them."""

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI, Request, Response

from tests.fakes.engine import Serving

COMMIT = "0" * 40
CONVERTED = "refs/convert/parquet"


def build_hub(files: Mapping[str, Mapping[str, bytes]], gated: Collection[str] = ()) -> FastAPI:
    """`files`: repository -> path -> content, on the branch `main`; paths below `CONVERTED` are on that branch.

    Files of `gated` repositories are listed and refused, as the hub does where nobody has accepted the terms.
    """
    app = FastAPI()

    @app.get("/api/datasets/{owner}/{name}/tree/{revision:path}")
    async def tree(owner: str, name: str, revision: str) -> Response:
        repo = f"{owner}/{name}"
        if repo not in files or revision not in ("main", CONVERTED):
            return Response(
                status_code=404, headers={"X-Error-Code": "RepoNotFound" if repo not in files else "RevisionNotFound"}
            )
        prefix = f"{CONVERTED}/" if revision == CONVERTED else ""
        entries = [
            f'{{"type": "file", "path": "{path.removeprefix(prefix)}", "size": {len(content)}, "oid": "{COMMIT}"}}'
            for path, content in files[repo].items()
            if path.startswith(CONVERTED) == bool(prefix)
        ]
        return Response(f"[{', '.join(entries)}]", media_type="application/json")

    @app.api_route("/datasets/{owner}/{name}/resolve/{place:path}", methods=["GET", "HEAD"])
    async def resolve(request: Request, owner: str, name: str, place: str) -> Response:
        repo = f"{owner}/{name}"
        if repo in gated:
            return Response(status_code=403, headers={"X-Error-Code": "GatedRepo"})
        content = files[repo][place.removeprefix("main/")]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(content)),
        }
        return Response(content if request.method == "GET" else b"", headers=headers)

    return app


@contextmanager
def use_hub(app: FastAPI, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Let `huggingface_hub` ask this hub, and keep what it fetches in `folder`."""
    with Serving(app) as url:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        monkeypatch.setattr(
            huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
        yield


def to_parquet(rows: Sequence[Mapping[str, object]]) -> bytes:
    """The rows as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()
