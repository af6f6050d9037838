"""A hub that serves dataset files: the two routes that `huggingface_hub` uses to list and to fetch them."""

import hashlib
from collections.abc import Mapping

from fastapi import FastAPI, Request, Response

COMMIT = "0" * 40


def build_hub(files: Mapping[str, Mapping[str, bytes]]) -> FastAPI:
    """`files`: repository -> path -> content, all on the branch `main`."""
    app = FastAPI()

    @app.get("/api/datasets/{owner}/{name}/tree/{revision:path}")
    async def tree(owner: str, name: str, revision: str) -> Response:
        repo = f"{owner}/{name}"
        if repo not in files or revision != "main":
            return Response(
                status_code=404, headers={"X-Error-Code": "RepoNotFound" if repo not in files else "RevisionNotFound"}
            )
        entries = [
            f'{{"type": "file", "path": "{path}", "size": {len(content)}, "oid": "{COMMIT}"}}'
            for path, content in files[repo].items()
        ]
        return Response(f"[{', '.join(entries)}]", media_type="application/json")

    @app.api_route("/datasets/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    async def resolve(request: Request, owner: str, name: str, revision: str, path: str) -> Response:
        content = files[f"{owner}/{name}"][path]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(content)),
        }
        return Response(content if request.method == "GET" else b"", headers=headers)

    return app
