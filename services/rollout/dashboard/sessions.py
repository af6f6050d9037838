"""Signing in with an API key. The cookie holds the key; scripts cannot read it, and other sites cannot send it."""

import base64
import hmac
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import SecretStr

from services.rollout.dashboard.rendering import TEMPLATES

COOKIE = "drift_key"
SESSION_S = 30 * 86_400


def read_cookie(header: str) -> str | None:
    """The key in a Cookie header, if it has one."""
    try:
        morsel = SimpleCookie(header).get(COOKIE)
        return base64.urlsafe_b64decode(morsel.value).decode("latin-1") if morsel else None
    except (CookieError, ValueError):  # no base64, no ASCII
        return None


def build_session_pages(keys: Sequence[SecretStr]) -> APIRouter:
    """Routes to sign in and out."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    async def ask(request: Request) -> Response:
        return TEMPLATES.TemplateResponse(request, "login.html")

    @router.post("/login")
    async def sign_in(request: Request) -> Response:
        given = parse_qs((await request.body()).decode(errors="replace")).get("key", [""])[0].encode()
        if not any(hmac.compare_digest(given, key.get_secret_value().encode()) for key in keys):
            return TEMPLATES.TemplateResponse(request, "login.html", {"wrong": True}, status_code=401)
        reply = RedirectResponse("/", 303)
        reply.set_cookie(
            COOKIE,
            base64.urlsafe_b64encode(given).decode(),
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return reply

    @router.post("/logout")
    async def sign_out() -> Response:
        reply = RedirectResponse("/login", 303)
        reply.delete_cookie(COOKIE)
        return reply

    return router
