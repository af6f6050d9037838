"""A scripted engine that speaks vLLM's part of the OpenAI protocol, for speed and for faults.

Tokens are the UTF-8 bytes of the text plus `FIRST_TOKEN`; `END` is the end-of-turn token. What a policy answers is a
function of the conversation and of the loaded weights. `tests/loop/test_real_engine.py` asks a real vLLM for the
same promises.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

FIRST_TOKEN = 3
END = 2

Message = dict[str, str]
Script = Callable[[Sequence[Message], str], str]
"""(conversation, weights that are loaded) -> answer."""


def encode(text: str) -> list[int]:
    """One token a byte."""
    return [byte + FIRST_TOKEN for byte in text.encode()]


def encode_chat(messages: Sequence[Message]) -> list[int]:
    """The context as the engine sees it: every message, then the opening of the answer."""
    return encode("".join(f"<{each['role']}>{each['content']}\n" for each in messages) + "<assistant>")


@dataclass
class FakeEngine:
    """State and faults of one scripted engine; reachable at `url` while it runs."""

    script: Script
    model: str = "scripted"
    root: str = "/weights/base"
    max_model_len: int = 100_000
    latency_s: float = 0.0
    url: str = ""
    weights: str = ""
    broken: int = 0
    """This many of the next completions are answered with 500."""
    down: bool = False
    """Every route answers 503, as a proxy in front of a dead engine does."""
    loadable: bool = True
    """Whether new weights can be loaded."""
    refused: int = 0
    """Completions refused while down."""
    requests: list[dict[str, object]] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    born: float = 0.0

    def restart(self) -> None:
        """Be a new process with the weights of the start; what was in flight is lost."""
        self.weights, self.born, self.down = self.root, self.born + 1, False

    async def complete(self, body: dict[str, object]) -> Response:
        """One chat completion."""
        self.requests.append(body)
        born = self.born
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s)
        finally:
            self.in_flight -= 1
        if self.down or self.born != born:
            self.refused += 1
            return JSONResponse({"error": {"message": "the engine core has died"}}, 500)
        if self.broken > 0:
            self.broken -= 1
            return JSONResponse({"error": {"message": "scripted fault"}}, 500)
        messages: list[Message] = body["messages"]  # pyright: ignore[reportAssignmentType]
        prompt = encode_chat(messages)
        max_tokens = int(str(body["max_tokens"]))
        if len(prompt) + max_tokens > self.max_model_len:
            message = f"This model's maximum context length is {self.max_model_len} tokens."
            return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": 400}}, 400)
        text = self.script(messages, self.weights)
        tokens, finish_reason = [*encode(text), END], "stop"
        if len(tokens) > max_tokens:
            tokens, finish_reason = tokens[:max_tokens], "length"
            text = bytes(token - FIRST_TOKEN for token in tokens).decode(errors="replace")
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": finish_reason,
            "token_ids": tokens,
        }
        return JSONResponse({"id": "x", "model": self.model, "prompt_token_ids": prompt, "choices": [choice]})


def build_app(engine: FakeEngine) -> FastAPI:
    """The routes of vLLM that the rollout service uses."""
    app = FastAPI()
    engine.restart()

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=503 if engine.down else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(f"process_start_time_seconds {engine.born}\n")

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        card = {"id": engine.model, "root": engine.root, "max_model_len": engine.max_model_len}
        return {"data": [card]}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        """Like vLLM, drops a request whose client has gone."""
        work = asyncio.create_task(engine.complete(await request.json()))
        gone = asyncio.ensure_future(request.receive())
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if work.done():
            return work.result()
        work.cancel()
        return Response(status_code=499)

    @app.post("/collective_rpc")
    async def rpc(request: Request) -> Response:
        if not engine.loadable:
            return JSONResponse({"error": {"message": "scripted fault"}}, 500)
        body = await request.json()
        engine.weights = body["kwargs"]["weights_path"]
        engine.loads.append(engine.weights)
        return JSONResponse({"results": [None]})

    for path in ("/pause", "/resume", "/reset_prefix_cache"):
        app.add_api_route(path, health, methods=["POST"])
    return app


class Serving:
    """Serves an ASGI application on a loopback port, in a thread of its own, while the context is open."""

    def __init__(self, app: FastAPI, port: int = 0) -> None:
        self._server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            if time.monotonic() > deadline:
                raise TimeoutError("the server did not start")
            time.sleep(0.005)
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
