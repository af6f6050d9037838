"""What every HTTP service of the project has alike: bearer tokens, limits, an audit log, problem details, probes.

Errors are RFC 9457 problem details (`application/problem+json`) whose `detail` says what is wrong and
whose `remedy` says how to mend it.
"""

import hashlib
import hmac
import math
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import DriftError
from shared.rate import RateLimit
from shared.schema import Schema, describe_faults
from shared.telemetry import get_logger
from shared.tracing import serving_span

log = get_logger(__name__)

PROBES = ("/health", "/ready", "/metrics")
"""What probes and scrapers reach without a token."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class ProblemDetails(Schema):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    """What is wrong."""
    remedy: str | None = None
    """How to mend it."""


def _describe_problem(status: int, detail: str, remedy: str) -> dict[str, Any]:
    example = ProblemDetails(title=HTTPStatus(status).phrase, status=status, detail=detail, remedy=remedy)
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    content = {"application/problem+json": {"schema": schema, "example": example.model_dump()}}
    return {"description": HTTPStatus(status).phrase, "content": content}


PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: _describe_problem(401, "The bearer token is missing or wrong.", "Send one of DRIFT_API_KEYS."),
    404: _describe_problem(404, "There is no job '20260101-120000-0123ab'.", "GET /v1/jobs lists them."),
    409: _describe_problem(409, "Job 20260101-120000-0123ab has already failed.", "Submit it again as a new job."),
    422: _describe_problem(422, "own.csv, line 7, field answer: missing.", "A row has problem and answer."),
    "default": {"description": "Problem details", "model": ProblemDetails},
}
"""What any route of an API may answer, for its documentation."""


def problem(
    status: int, detail: object, *, remedy: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An RFC 9457 response."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if remedy:
        body["remedy"] = remedy
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


def key_id(token: bytes) -> str:
    """What logs call a key; the key cannot be had back from it."""
    return hashlib.sha256(token).hexdigest()[:12]


class Guard:
    """ASGI middleware: refuses a missing token (401), a key that asks too often (429) and too large a body (413).

    All of it before anything is parsed. Log lines of a request carry `key`, the id of the key that sent it (`open`
    where no keys are set). With `audit`, each request that may change something is logged once it is answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Sequence[SecretStr],
        max_body: int,
        rate: float,
        refusals: Counter,
        open_paths: Sequence[str],
        audit: bool,
    ) -> None:
        self._app = app
        self._tokens = {token: key_id(token) for token in (key.get_secret_value().encode() for key in keys)}
        self._max_body = max_body
        self._limit = RateLimit(rate)
        self._open = frozenset(open_paths)
        self._audit = audit
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        key = self._identify(headers.get("authorization", ""))
        who = {"key": key or "none", "client": scope["client"][0] if scope.get("client") else "unknown"}
        with structlog.contextvars.bound_contextvars(**who):
            reason, refusal = self._refuse(scope["path"], key, headers.get("content-length", ""))
            if refusal:
                self._refusals.labels(reason).inc()
                log.warning("request_refused", reason=reason, method=scope["method"], path=scope["path"])
                return await refusal(scope, receive, send)
            if scope["path"] in self._open:
                return await self._serve(scope, receive, send)
            with serving_span(f"{scope['method']} {scope['path']}", dict(headers)):
                await self._serve(scope, receive, send)

    def _identify(self, authorization: str) -> str | None:
        if not self._tokens:
            return "open"
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        return next((id for token, id in self._tokens.items() if hmac.compare_digest(given.encode(), token)), None)

    def _refuse(self, path: str, key: str | None, length: str) -> tuple[str, JSONResponse | None]:
        """Why the request is not let in, and the reply that says so."""
        if path not in self._open:
            if key is None:
                return "token", problem(
                    401,
                    "The bearer token is missing or wrong.",
                    headers={"WWW-Authenticate": "Bearer"},
                    remedy="Send `Authorization: Bearer KEY` with one of DRIFT_API_KEYS.",
                )
            if self._tokens and (wait := self._limit.take(key, time.monotonic())) > 0:
                return "rate", problem(
                    429,
                    "This key asks too often.",
                    headers={"Retry-After": str(math.ceil(wait))},
                    remedy="Wait as long as Retry-After says, or ask for more at once.",
                )
        if length.isdigit() and int(length) > self._max_body:
            return "size", _too_large(self._max_body)
        return "", None

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, status = 0, 0

        async def bounded_receive() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body:
                raise HTTPException(413)
            return message

        async def watched_send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, bounded_receive, watched_send)
        finally:
            if self._audit and scope["method"] not in _SAFE_METHODS:
                log.info("request", method=scope["method"], path=scope["path"], status=status, bytes=seen)


def _too_large(max_body: int) -> JSONResponse:
    return problem(413, f"The request body is larger than {max_body} bytes.", remedy="Send it in parts.")


def equip(
    app: FastAPI,
    *,
    keys: Sequence[SecretStr],
    max_body: int,
    rate: float,
    registry: CollectorRegistry,
    open_paths: Sequence[str] = PROBES,
    audit: bool = False,
) -> FastAPI:
    """Give `app` the guard, problem details for errors, `/health` and `/metrics`; `/ready` is the service's own.

    `max_body` is in bytes, `rate` in requests a second of one key.
    """
    refusals = Counter("drift_http_refusals", "Requests refused unread", ["reason"], registry=registry)
    app.add_middleware(
        Guard, keys=keys, max_body=max_body, rate=rate, refusals=refusals, open_paths=open_paths, audit=audit
    )

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

    @app.exception_handler(Exception)
    async def _(_request: Request, _error: Exception) -> Response:
        return problem(500, "An internal error.", remedy="See the service's log, and report it.")

    @app.get("/health", tags=["probes"])
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/metrics", tags=["probes"])
    async def metrics() -> Response:
        """Prometheus exposition."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app
