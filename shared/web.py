"""What every HTTP service of the project has alike: bearer tokens, a size limit, problem details, health, metrics.

Errors are RFC 9457 problem details (`application/problem+json`) whose `detail` says what is wrong and
whose `remedy` says how to mend it.
"""

import hmac
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import DriftError

PROBES = ("/health", "/ready", "/metrics")
"""What probes and scrapers reach without a token."""


def problem(
    status: int, detail: object, *, remedy: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An RFC 9457 response."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if remedy:
        body["remedy"] = remedy
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


class Guard:
    """ASGI middleware: refuses a missing token (401) and a body beyond the limit (413) before anything is parsed."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[SecretStr], max_body: int, open_paths: Sequence[str]) -> None:
        self._app = app
        self._tokens = [key.get_secret_value().encode() for key in keys]
        self._max_body = max_body
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        if self._tokens and scope["path"] not in self._open and not self._knows(headers.get("authorization", "")):
            refusal = problem(
                401,
                "The bearer token is missing or wrong.",
                headers={"WWW-Authenticate": "Bearer"},
                remedy="Send `Authorization: Bearer KEY` with one of DRIFT_API_KEYS.",
            )
            return await refusal(scope, receive, send)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_body:
            return await _too_large(self._max_body)(scope, receive, send)
        seen = 0

        async def bounded_receive() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body:
                raise HTTPException(413)
            return message

        await self._app(scope, bounded_receive, send)

    def _knows(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and any(hmac.compare_digest(token.encode(), known) for known in self._tokens)


def _too_large(max_body: int) -> JSONResponse:
    return problem(413, f"The request body is larger than {max_body} bytes.", remedy="Send it in parts.")


def describe_faults(faults: Sequence[Mapping[str, Any]]) -> str:
    """pydantic's faults as one line: field and fault of each, at most twenty."""
    named = [f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in faults[:20]]
    return "; ".join(named)


def equip(
    app: FastAPI,
    *,
    keys: Sequence[SecretStr],
    max_body: int,
    registry: CollectorRegistry,
    open_paths: Sequence[str] = PROBES,
) -> FastAPI:
    """Give `app` the guard, problem details for errors, `/health` and `/metrics`; `/ready` is the service's own."""
    app.add_middleware(Guard, keys=keys, max_body=max_body, open_paths=open_paths)

    @app.exception_handler(DriftError)
    async def _(_request: Request, error: DriftError) -> Response:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return problem(error.status, error.message, remedy=error.remedy, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def _(_request: Request, error: RequestValidationError) -> Response:
        faults = [{**fault, "loc": fault["loc"][1:]} for fault in error.errors()]
        return problem(422, describe_faults(faults), remedy="See /docs for the fields of this request.")

    @app.exception_handler(HTTPException)
    async def _(_request: Request, error: HTTPException) -> Response:
        if error.status_code == 413:
            return _too_large(max_body)
        return problem(error.status_code, error.detail, headers=dict(error.headers or {}))

    @app.get("/health", tags=["probes"])
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/metrics", tags=["probes"])
    async def metrics() -> Response:
        """Prometheus exposition."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app
