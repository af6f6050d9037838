"""The same episodes with turn barriers, and with nothing but the engine, for comparison with the service.

`play_chunks` is the protocol of the authors' scripts: the trajectories of a chunk wait for each other at every turn.
`play_freely` plays as many episodes at once as it is told, without verifier, Redis or service: the engine's maximum.
All send what the service sends.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from httpx_aiohttp import AiohttpTransport

from services.rollout.engines.engine import NEUTRAL
from services.rollout.prompts import Message, load_prompts
from shared.grading import Verdict, VerifyItem
from shared.trajectory import Problem
from shared.verifier_client import VerifierClient

FEEDBACK: Message = {"role": "user", "content": "Incorrect. Please think again."}
SAMPLE_S = 1.0

Answer = Callable[[Sequence[Message]], Awaitable[str]]
"""Draws one answer, given the context."""


@dataclass(frozen=True)
class Look:
    """The engine's own counters at one time."""

    time: float
    """Seconds."""
    generated: float
    """Tokens since it was started, as are the prompts' and the answers."""
    running: float
    waiting: float
    prompts: float
    """Tokens of prompts."""
    cached: float
    """Those of them that the prefix cache had."""
    answers: float


@dataclass
class Rate:
    """Tokens over time, from the engine's own counters."""

    slots: int
    samples: list[Look] = field(default_factory=list[Look])
    cpu_seconds: float = 0.0
    """What everything but the engine took meanwhile."""

    @property
    def seconds(self) -> float:
        """From the first request to the last answer."""
        busy = self._busy(1)
        return busy[-1].time - busy[0].time

    @property
    def overall(self) -> float:
        """Tokens a second, tail included."""
        return (self.samples[-1].generated - self.samples[0].generated) / self.seconds

    @property
    def full(self) -> float:
        """Tokens a second outside the tail: while there is work for every slot."""
        busy = self._busy(self.slots)
        return (busy[-1].generated - busy[0].generated) / (busy[-1].time - busy[0].time)

    @property
    def running(self) -> float:
        """Mean number of requests decoded at once, outside the tail."""
        busy = self._busy(self.slots)
        return sum(look.running for look in busy) / len(busy)

    @property
    def answers(self) -> int:
        return round(self.samples[-1].answers - self.samples[0].answers)

    @property
    def prompt_per_token(self) -> float:
        """Tokens of prompts that the engine had to compute for each token that it generated."""
        first, last = self.samples[0], self.samples[-1]
        computed = (last.prompts - last.cached) - (first.prompts - first.cached)
        return computed / (last.generated - first.generated)

    def _busy(self, least: int) -> list[Look]:
        """From the first to the last sample with at least so many requests."""
        places = [place for place, look in enumerate(self.samples) if look.running + look.waiting >= least]
        if len(places) < 2:
            raise RuntimeError(f"The engine never had {least} requests over two samples: give it more trajectories.")
        return self.samples[places[0] : places[-1] + 1]


@dataclass
class Engine:
    """A client of one engine for the two protocols, and a reader of its counters."""

    url: str
    model: str
    max_tokens: int
    http: httpx.AsyncClient

    async def answer(self, context: Sequence[Message]) -> str:
        body = NEUTRAL | {
            "model": self.model,
            "messages": list(context),
            "temperature": 1.0,
            "max_tokens": self.max_tokens,
            "return_token_ids": True,
        }
        reply = await self.http.post(f"{self.url}/v1/chat/completions", json=body)
        return reply.raise_for_status().json()["choices"][0]["message"]["content"] or ""

    async def forget(self) -> None:
        """Drop the prefix cache: no protocol is to live on another's prompts."""
        (await self.http.post(f"{self.url}/reset_prefix_cache")).raise_for_status()

    async def watch(self, rate: Rate, work: Awaitable[object], spent: Callable[[], float] = time.process_time) -> None:
        """Sample the counters until the work is done; `spent` says the CPU seconds of all but the engine so far."""
        working = asyncio.ensure_future(work)
        before = spent()
        try:
            while True:
                rate.samples.append(await self._look())
                if working.done():
                    working.result()
                    rate.cpu_seconds = spent() - before
                    return
                await asyncio.wait([working], timeout=SAMPLE_S)
        finally:
            working.cancel()

    async def _look(self) -> Look:
        lines = (await self.http.get(f"{self.url}/metrics")).raise_for_status().text.splitlines()

        def add_up(name: str) -> float:
            return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{name}{{"))

        return Look(
            time.monotonic(),
            add_up("generation_tokens_total"),
            add_up("num_requests_running"),
            add_up("num_requests_waiting"),
            add_up("prompt_tokens_total"),
            add_up("prefix_cache_hits_total"),
            add_up("request_success_total"),
        )


@asynccontextmanager
async def connect(url: str, model: str, max_tokens: int) -> AsyncIterator[Engine]:
    """A client of the engine at `url`."""
    transport = AiohttpTransport(limits=httpx.Limits(max_connections=4096, keepalive_expiry=2.0))
    async with httpx.AsyncClient(timeout=900, transport=transport) as http:
        yield Engine(url, model, max_tokens, http)


@dataclass
class _Play:
    problem: Problem
    context: list[Message]
    solved: bool = False


async def play_chunks(
    answer: Answer, verifier: VerifierClient, problems: Sequence[Problem], template: str, turns: int, chunk: int
) -> None:
    """One trajectory a problem; those of a chunk wait for each other at every turn, chunk after chunk."""
    prompts = load_prompts(template, turns)
    for start in range(0, len(problems), chunk):
        plays = [_Play(problem, list(prompts.open(problem))) for problem in problems[start : start + chunk]]
        for _ in range(turns):
            going = [play for play in plays if not play.solved]
            texts = await asyncio.gather(*(answer(play.context) for play in going))
            items = [
                VerifyItem(id=str(place), kind=play.problem.kind, response=text, answer=play.problem.answer)
                for place, (play, text) in enumerate(zip(going, texts, strict=True))
            ]
            for play, text, result in zip(going, texts, await verifier.verify(items), strict=True):
                play.solved = result.verdict is Verdict.CORRECT
                play.context += [{"role": "assistant", "content": text}, FEEDBACK]


async def play_freely(
    answer: Answer, episodes: Iterable[tuple[Problem, int]], template: str, turns: int, at_once: int
) -> None:
    """One trajectory a problem, of as many turns as stand beside it (`turns` at most), `at_once` at a time."""
    prompts, left = load_prompts(template, turns), iter(episodes)

    async def player() -> None:
        for problem, length in left:
            context = list(prompts.open(problem))
            for _ in range(length):
                context += [{"role": "assistant", "content": await answer(context)}, FEEDBACK]

    await asyncio.gather(*(player() for _ in range(at_once)))
