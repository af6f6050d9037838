"""What stands between a browser and the service: the sign-in cookie, HTML for errors, and a strict content policy.

The cookie holds the API key, readable by no script and sent by no other site; it becomes the bearer token that
the guard behind checks. Requests that another site makes a browser send are refused where they could change anything.
"""

import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.rollout.dashboard.rendering import TEMPLATES
from services.rollout.dashboard.sessions import read_cookie
from shared.web import problem

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_API_DOCS = ("/docs", "/redoc")
"""FastAPI's own pages, which load their scripts from elsewhere."""


class Front:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        if scope["method"] not in _SAFE_METHODS and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            refusal = problem(403, "Another site made this request.", remedy="Use the dashboard's own page.")
            return await refusal(scope, receive, send)
        key = read_cookie(headers.get("cookie", ""))
        if key and "authorization" not in headers:
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", f"Bearer {key}".encode("latin-1"))]}
        shown = "text/html" in headers.get("accept", "") and scope["method"] == "GET" and "hx-request" not in headers
        await self._app(scope, receive, _Reply(scope, receive, send) if shown else send)


class _Reply:
    """Passes a reply on to a browser: problem details become a page, and pages get the content policy."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._held: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if headers.get("content-type", "").startswith("application/problem+json"):
                self._held = message
                return None
            if not self._scope["path"].startswith(_API_DOCS):
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
        if self._held is None:
            return await self._send(message)
        self._body += message.get("body", b"")
        if not message.get("more_body"):
            await self._show_problem(self._held["status"])

    async def _show_problem(self, status: int) -> None:
        request = Request(self._scope)
        if status == 401:
            page = RedirectResponse("/login", 303)
        else:
            page = TEMPLATES.TemplateResponse(request, "problem.html", json.loads(self._body), status_code=status)
            page.headers["Content-Security-Policy"] = _POLICY
        await page(self._scope, self._receive, self._send)
