"""A scripted engine in a process of its own: vLLM's part of the OpenAI protocol, as cheap as Python allows.

    python -m bench.scripted_engine --port PORT

`POST /script` takes a `Script` and begins a new measurement, `GET /measured` gives its `Measured`. Every answer carries
a tag, so that the engine can tell when the turn after it arrives: what lies between is the service's own time.
"""

import argparse
import asyncio
import math
import random
import time
from array import array
from collections import deque
from functools import partial
from typing import cast

import orjson
import uvloop

from shared.schema import Schema

MODEL = "scripted"
_IDS = ",".join(str(number) for number in range(10_000, 43_000)).encode()
"""Token ids of five digits, so that the first n of them are a slice."""
_FILLER = "so we add the next term and look at it once more; " * 1000
_CHARACTERS_A_TOKEN = 4


class Script(Schema):
    """How the engine behaves."""

    slots: int = 1 << 20
    """Requests that are decoded at once; the others wait."""
    seconds: float = 0.0
    """Mean time of one answer; each takes 0.5 to 1.5 of it. Unused where `token_seconds` is set."""
    tokens: int = 64
    """Length of an answer; the median where `sigma` is set."""
    sigma: float = 0.0
    """Log-normal spread of the lengths."""
    token_seconds: float = 0.0
    """Time of one decoded token, whatever the batch."""
    solved: float = 0.3
    """Share of the answers that are right: `7`."""
    steady: int | None = None
    """Overhead is that of turns before more trajectories than this have begun; of all turns where it is None."""


class Measured(Schema):
    """What the engine saw since its script was set; times in seconds."""

    turns: int
    tokens: int
    first: float
    """Arrival of the first request, on the engine's clock."""
    last: float
    """End of the last answer."""
    mean_in_flight: float
    """Requests running, over the time from `first` to `last`."""
    overhead_p50: float
    """From an answer's departure to the arrival of the same trajectory's next request."""
    overhead_p99: float
    overhead_max: float


class Engine:
    """The state behind all connections."""

    def __init__(self) -> None:
        self.begin(Script())

    def begin(self, script: Script) -> None:
        """Forget what was measured, and behave like this."""
        self.script = script
        self.random = random.Random(0)
        self.departed: dict[str, float] = {}
        self.overheads = array("d")
        self.waiting: deque[Connection] = deque()
        self.running = self.turns = self.tokens = self.begun = 0
        self.first = self.last = self.area = 0.0

    def draw(self, most: int) -> tuple[int, float]:
        """Tokens of the next answer, and its seconds."""
        script = self.script
        spread = math.exp(self.random.gauss(0.0, script.sigma)) if script.sigma else 1.0
        tokens = min(most, max(16, round(script.tokens * spread)))
        if script.token_seconds:
            return tokens, tokens * script.token_seconds
        return tokens, script.seconds * self.random.uniform(0.5, 1.5)

    def arrive(self, connection: "Connection", messages: list[dict[str, str]]) -> None:
        """A request has come: note the overhead of its turn, and begin it where a slot is free."""
        now = time.monotonic()
        if not self.first and connection.most > 1:  # a job begins with a question of one token, to see the engine
            self.first = now
        self.begun += len(messages) <= 2
        steady = self.script.steady is None or self.begun <= self.script.steady
        if steady and len(messages) > 2 and (departed := self.departed.pop(messages[-2]["content"][:10], None)):
            self.overheads.append(now - departed)
        if self.running < self.script.slots:
            self.start(connection)
        else:
            self.waiting.append(connection)

    def start(self, connection: "Connection") -> None:
        self._pass_time()
        self.running += 1
        connection.decode()

    def leave(self, connection: "Connection") -> None:
        """A running request has ended, or its client has gone."""
        self._pass_time()
        self.running -= 1
        while self.waiting and self.running < self.script.slots:
            self.start(self.waiting.popleft())

    def _pass_time(self) -> None:
        now = time.monotonic()
        self.area += self.running * (now - self.last) if self.last else 0.0
        self.last = now

    def measured(self) -> Measured:
        """So far."""
        ordered = sorted(self.overheads) or [0.0]
        return Measured(
            turns=self.turns,
            tokens=self.tokens,
            first=self.first,
            last=self.last,
            mean_in_flight=self.area / max(1e-9, self.last - self.first),
            overhead_p50=ordered[len(ordered) // 2],
            overhead_p99=ordered[int(len(ordered) * 0.99)],
            overhead_max=ordered[-1],
        )


class Connection(asyncio.Protocol):
    """One client's connection; one request at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.most = self._prompt = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
            self._engine.leave(self)
        elif self in self._engine.waiting:
            self._engine.waiting.remove(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        place = head.find(b"content-length:")
        length = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(self._received) < end + 4 + length:
            return
        body = bytes(self._received[end + 4 : end + 4 + length])
        del self._received[: end + 4 + length]
        self._route(head.split(b" ", 2)[1].split(b"?")[0], body)

    def _route(self, path: bytes, body: bytes) -> None:
        engine = self._engine
        match path:
            case b"/v1/chat/completions":
                request = orjson.loads(body)
                self.most = request["max_tokens"]
                self._prompt = sum(len(each["content"]) for each in request["messages"]) // _CHARACTERS_A_TOKEN
                engine.arrive(self, request["messages"])
            case b"/v1/models":
                card = {"id": MODEL, "root": "/weights/base", "max_model_len": 32_768}
                self._reply(orjson.dumps({"data": [card]}))
            case b"/metrics":
                self._reply(
                    f'vllm:generation_tokens_total{{model_name="{MODEL}"}} {engine.tokens}\n'
                    f'vllm:num_requests_running{{model_name="{MODEL}"}} {engine.running}\n'
                    f'vllm:num_requests_waiting{{model_name="{MODEL}"}} {len(engine.waiting)}\n'
                    f'vllm:request_success_total{{model_name="{MODEL}"}} {engine.turns}\n'.encode()
                )
            case b"/server_info":
                self._reply(b'{"vllm_config":{"model_config":{"generation_config":"vllm"}}}')
            case b"/weight_info":
                self._reply(b'{"weight_version":"default"}')
            case b"/script":
                engine.begin(Script.model_validate_json(body))
                self._reply(b"{}")
            case b"/measured":
                self._reply(engine.measured().model_dump_json().encode())
            case _:
                self._reply(b"{}")

    def decode(self) -> None:
        """Answer after the time that the script says."""
        tokens, seconds = self._engine.draw(self.most)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._answer, tokens)

    def _answer(self, tokens: int) -> None:
        engine = self._engine
        self._timer = None
        engine.turns += 1
        engine.tokens += tokens
        tag = f"#{engine.turns:08d} "
        answer = "7" if engine.random.random() < engine.script.solved else str(engine.random.randrange(10, 99))
        filler = _FILLER[: max(0, tokens * _CHARACTERS_A_TOKEN - 40)]
        text = f"{tag}<think>{filler}</think> <answer>{answer}</answer>"
        reply = (
            b'{"id":"x","object":"chat.completion","model":"%b","prompt_token_ids":[%b],"choices":[{"index":0,"message":'
            b'{"role":"assistant","content":"%b"},"finish_reason":"stop","token_ids":[%b]}],'
            b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}}'
        ) % (MODEL.encode(), _first_ids(self._prompt), text.encode(), _first_ids(tokens), self._prompt, tokens)
        engine.departed[tag] = time.monotonic()
        engine.leave(self)
        self._reply(reply)

    def _reply(self, body: bytes) -> None:
        assert self._transport
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)


def _first_ids(count: int) -> bytes:
    return _IDS[: max(0, 6 * count - 1)]


async def serve(port: int) -> None:
    """Until killed."""
    server = await asyncio.get_running_loop().create_server(
        partial(Connection, Engine()), "127.0.0.1", port, backlog=8192
    )
    await server.serve_forever()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
