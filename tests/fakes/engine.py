"""A scripted engine that speaks vLLM's part of the OpenAI protocol, for speed and for faults.

Tokens are the UTF-8 bytes of the text plus `FIRST_TOKEN`; `END` is the end-of-turn token. What a policy answers is a
function of the conversation and of the loaded weights. `tests/loop/test_real_engine.py` asks a real vLLM for the
same promises.

    python -m tests.fakes.engine --port PORT --latency SECONDS
"""

import argparse
import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

FIRST_TOKEN = 3
END = 2
START_S = 60.0
"""Longest start of a server; the verifier's workers import SymPy first."""

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
    slots: int = 4096
    """Requests that run at once; others wait. To be set before the first."""
    latency_s: float = 0.0
    url: str = ""
    weights: str = ""
    version: str = "default"
    """vLLM's label of the weights in place."""
    adapters: dict[str, str] = field(default_factory=dict)
    """LoRA adapters by name."""
    generation: str = "vllm"
    """Where the sampling defaults come from."""
    longest: int | None = None
    """Answers are cut at this length, as a `max_new_tokens` of the generation configuration does."""
    developing: bool = True
    """Whether the routes of vLLM's development mode are there."""
    reticent: bool = False
    """Whether `/server_info` fails, as vLLM's does in a container without pip."""
    hanging: bool = False
    """It answers neither its health check nor how much it has to do."""
    broken: int = 0
    """This many of the next completions are answered with 500."""
    down: bool = False
    """Every route answers 503, as a proxy in front of a dead engine does."""
    starting: bool = False
    """It does not list its models yet."""
    taking_adapters: bool = True
    """Whether it was started with `--enable-lora`."""
    taking_system: bool = True
    """Whether the model's chat template takes a system message; Gemma-2's does not."""
    loadable: bool = True
    """Whether new weights can be loaded."""
    refused: int = 0
    """Completions refused while down."""
    requests: list[dict[str, object]] = field(default_factory=list)
    sessions: list[str | None] = field(default_factory=list)
    """The affinity header of each request."""
    traceparents: list[str | None] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    running: int = 0
    waiting: int = 0
    most_in_flight: int = 0
    generated: int = 0
    """Tokens answered since the start."""
    born: int = 0
    paused: int = 0
    """How often it was paused; a pause ends what is in flight."""
    _places: asyncio.Semaphore | None = None

    @property
    def in_flight(self) -> int:
        return self.running + self.waiting

    def restart(self) -> None:
        """Be a new process with the weights of the start; what was in flight is lost."""
        self.weights, self.version, self.born, self.down = self.root, "default", self.born + 1, False
        self.generated = 0
        self.adapters.clear()

    async def complete(self, body: dict[str, object]) -> Response:
        """One chat completion."""
        self.requests.append(body)
        process = self.born, self.paused
        asked = str(body["model"])
        if asked not in (self.model, *self.adapters):
            return refuse(404, f"The model `{asked}` does not exist.")
        messages: list[Message] = body["messages"]  # pyright: ignore[reportAssignmentType]
        if not self.taking_system and any(message["role"] == "system" for message in messages):
            return refuse(400, "System role not supported")
        prompt = encode_chat(messages)
        room = self.max_model_len - len(prompt)
        if room < 1:
            return refuse(400, f"This model's maximum context length is {self.max_model_len} tokens.")
        await self._take_time()
        if self.down or self.born != process[0]:
            self.refused += 1
            return refuse(500, "the engine core has died")
        if self.broken > 0:
            self.broken -= 1
            return refuse(500, "scripted fault")
        text = self.script(messages, self.adapters.get(asked, self.weights))
        tokens, finish_reason = [*encode(text), END], "stop"
        most = min(int(str(body["max_tokens"])), room, self.longest or room)
        if body.get("ignore_eos"):
            tokens = (tokens * most)[: most + 1]
        if len(tokens) > most:
            tokens, finish_reason = tokens[:most], "length"
            text = bytes(token - FIRST_TOKEN for token in tokens if token != END).decode(errors="replace")
        if self.paused != process[1]:
            tokens, finish_reason = tokens[:1], "abort"
        self.generated += len(tokens)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": finish_reason,
            "token_ids": tokens,
        }
        return JSONResponse({"id": "x", "model": asked, "prompt_token_ids": prompt, "choices": [choice]})

    async def _take_time(self) -> None:
        self._places = self._places or asyncio.Semaphore(self.slots)
        self.waiting += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            await asyncio.sleep(self.latency_s)
        finally:
            self.running -= 1
            self._places.release()


def refuse(status: int, message: str) -> Response:
    """An error as vLLM words it."""
    return JSONResponse({"error": {"message": message, "type": "Error", "param": None, "code": status}}, status)


def build_app(engine: FakeEngine) -> FastAPI:
    """The routes of vLLM that the rollout service uses."""
    app = FastAPI()
    engine.restart()

    async def hang() -> None:
        while engine.hanging:
            await asyncio.sleep(0.01)

    @app.get("/health", dependencies=[Depends(hang)])
    async def health() -> Response:
        return Response(status_code=503 if engine.down else 200)

    @app.get("/metrics", dependencies=[Depends(hang)])
    async def metrics() -> Response:
        labels = f'{{engine="0",model_name="{engine.model}"}}'
        lines = {
            "num_requests_running": engine.running,
            "num_requests_waiting": engine.waiting,
            "generation_tokens_total": engine.generated,
        }
        return Response("".join(f"vllm:{name}{labels} {float(value)}\n" for name, value in lines.items()))

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        if engine.starting:
            raise HTTPException(503)
        card = {"id": engine.model, "root": engine.root, "parent": None, "max_model_len": engine.max_model_len}
        adapters = [
            {"id": name, "root": folder, "parent": engine.model, "max_model_len": None}
            for name, folder in engine.adapters.items()
        ]
        return {"data": [card, *adapters]}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        """Like vLLM, drops a request whose client has gone."""
        engine.sessions.append(request.headers.get("x-session-id"))
        engine.traceparents.append(request.headers.get("traceparent"))
        work = asyncio.create_task(engine.complete(await request.json()))
        gone = asyncio.ensure_future(request.receive())
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if work.done():
            return work.result()
        work.cancel()
        return Response(status_code=499)

    @app.post("/v1/load_lora_adapter")
    async def load_adapter(request: Request) -> Response:
        if not engine.loadable:
            return refuse(500, "LoRA is not enabled")
        body = await request.json()
        if body["lora_name"] in engine.adapters:
            return refuse(400, f"The lora adapter '{body['lora_name']}' has already been loaded.")
        engine.adapters[body["lora_name"]] = body["lora_path"]
        engine.loads.append(body["lora_path"])
        return Response("Success")

    @app.post("/v1/unload_lora_adapter")
    async def unload_adapter(request: Request) -> Response:
        del engine.adapters[(await request.json())["lora_name"]]
        return Response("Success")

    add_development_routes(app, engine)
    return app


def add_development_routes(app: FastAPI, engine: FakeEngine) -> None:
    """What vLLM has with VLLM_SERVER_DEV_MODE=1."""

    def check_mode() -> None:
        if not engine.developing:
            raise HTTPException(404)

    routes = APIRouter(dependencies=[Depends(check_mode)])

    @routes.get("/server_info")
    async def info() -> dict[str, object]:
        if engine.reticent:
            raise HTTPException(500)
        model = {"generation_config": engine.generation, "override_generation_config": {}, "logits_processors": None}
        return {"vllm_config": {"model_config": model, "lora_config": {} if engine.taking_adapters else None}}

    @routes.get("/weight_info")
    async def label() -> dict[str, str]:
        return {"weight_version": engine.version}

    @routes.post("/update_weight_version")
    async def relabel(request: Request) -> dict[str, bool]:
        engine.version = (await request.json())["new_version"]
        return {"success": True}

    @routes.post("/collective_rpc")
    async def rpc(request: Request) -> Response:
        if not engine.loadable:
            return refuse(500, "scripted fault")
        body = await request.json()
        engine.weights = body["kwargs"]["weights_path"]
        engine.loads.append(engine.weights)
        return JSONResponse({"results": [None]})

    @routes.post("/pause")
    async def pause() -> dict[str, str]:
        engine.paused += 1
        return {"status": "paused"}

    @routes.post("/resume")
    @routes.post("/reset_prefix_cache")
    async def go_on() -> dict[str, bool]:
        return {"success": True}

    app.include_router(routes)


class Serving:
    """Serves an ASGI application on a loopback port, in a thread of its own, while the context is open."""

    def __init__(self, app: FastAPI, port: int = 0) -> None:
        self._server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise TimeoutError("the server did not start")
            time.sleep(0.005)
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(60)


def second_try(messages: Sequence[Message], weights: str) -> str:
    """The base policy is right at its second try; any other at its first."""
    tries = sum(message["role"] == "assistant" for message in messages)
    return "B" if tries or weights != "/weights/base" else "A"


def main() -> None:
    """Serve `second_try` as a process of its own, one that can be killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.0)
    arguments = parser.parse_args()
    engine = FakeEngine(second_try, latency_s=arguments.latency, born=time.time_ns())
    uvicorn.run(build_app(engine), port=arguments.port, log_level="error")


if __name__ == "__main__":
    main()
