"""Whatever an engine answers is an ending with a reason or a fault, never a group that is played for ever."""

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from services.rollout.engines.engine import Engine, EngineDown, Refused, Sampling
from services.rollout.engines.limit import Limit
from services.rollout.engines.pool import Engines
from services.rollout.settings import RolloutSettings
from tests.fakes.http import serve

WELL = {
    "prompt_token_ids": [1, 2],
    "choices": [{"message": {"content": "A"}, "token_ids": [3], "finish_reason": "stop"}],
}


class Saying(BaseHTTPRequestHandler):
    """Answers every request with the same."""

    said = b""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(self.said)))
        self.end_headers()
        self.wfile.write(self.said)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def url() -> Iterator[str]:
    with serve(Saying) as url:
        yield url


def but(**change: Any) -> bytes:
    """A good answer, changed."""
    choice = WELL["choices"][0] | {name: value for name, value in change.items() if name != "prompt_token_ids"}
    prompt = change.get("prompt_token_ids", WELL["prompt_token_ids"])
    return json.dumps({"prompt_token_ids": prompt, "choices": [choice]}).encode()


async def ask(url: str, said: bytes) -> str:
    Saying.said = said
    async with aiohttp.ClientSession() as session:
        return (await Engine(url, lambda: session, Limit(1, 1)).answer("m", [], Sampling(1.0, 8))).text


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"<html>502 from a proxy</html>",
        b'{"choices": []}',
        b"[1, 2]",
        but()[:-20],
        but(message=None),
        but(message={"content": ["A"]}),
        but(message={"content": {"text": "A"}}),
        but(token_ids=None),
        but(token_ids=[-1]),
        but(token_ids=[1 << 31]),
        but(token_ids=["3"]),
        but(token_ids=5),
        but(token_ids={"3": 3}),
        but(prompt_token_ids=[3, -7]),
        but(message={"content": "\ud800"}),
    ],
)
async def test_what_is_no_answer_is_refused(url: str, said: bytes) -> None:
    with pytest.raises(Refused):
        await ask(url, said)


@pytest.mark.parametrize(
    "said", [b"", b"220 mail.example ESMTP\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nvll"]
)
async def test_a_server_that_speaks_no_http_is_an_engine_that_is_down(said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        engines = Engines(RolloutSettings(engine_urls=(url,)), CollectorRegistry())
        (control,) = engines.controls(engines.members[0])
        try:
            assert await control.load() is None
            with pytest.raises(EngineDown):
                await control.serves()
            with pytest.raises(EngineDown):
                await control.load_weights("/weights/new")
        finally:
            await engines.close()


async def test_an_answer_without_a_word_is_one(url: str) -> None:
    assert await ask(url, but(message={"content": None}, token_ids=[])) == ""
