"""The same episodes with turn barriers, and with nothing but the engine, for comparison with the service.

`play_chunks` is the protocol of the authors' scripts: the trajectories of a chunk wait for each other at every turn.
`play_freely` plays as many episodes at once as it is told, without verifier, Redis or service: the engine's maximum.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from httpx_aiohttp import AiohttpTransport

from services.rollout.prompts import Message, load_prompts
from shared.grading import Verdict, VerifyItem
from shared.trajectory import Problem
from shared.verifier_client import VerifierClient

FEEDBACK: Message = {"role": "user", "content": "Incorrect. Please think again."}
SAMPLE_S = 0.5

Answer = Callable[[Sequence[Message]], Awaitable[str]]
"""Draws one answer, given the context."""


@dataclass
class Rate:
    """Tokens over time, from the engine's own counters."""

    slots: int
    samples: list[tuple[float, float, float]] = field(default_factory=list)
    """(time in seconds, tokens generated so far, requests running or waiting)."""

    @property
    def seconds(self) -> float:
        """From the first request to the last answer."""
        busy = self._busy(1)
        return busy[-1][0] - busy[0][0]

    @property
    def overall(self) -> float:
        """Tokens a second, tail included."""
        busy = self._busy(1)
        return (self.samples[-1][1] - self.samples[0][1]) / (busy[-1][0] - busy[0][0])

    @property
    def full(self) -> float:
        """Tokens a second outside the tail: while there is work for every slot."""
        busy = self._busy(self.slots)
        return (busy[-1][1] - busy[0][1]) / (busy[-1][0] - busy[0][0])

    def _busy(self, least: int) -> list[tuple[float, float, float]]:
        """From the first to the last sample with at least so many requests."""
        places = [place for place, (_, _, requests) in enumerate(self.samples) if requests >= least]
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
        body = {
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

    async def watch(self, rate: Rate, work: Awaitable[object]) -> None:
        """Sample the counters until the work is done."""
        working = asyncio.ensure_future(work)
        try:
            while True:
                rate.samples.append(await self._look())
                if working.done():
                    working.result()
                    return
                await asyncio.wait([working], timeout=SAMPLE_S)
        finally:
            working.cancel()

    async def _look(self) -> tuple[float, float, float]:
        text = (await self.http.get(f"{self.url}/metrics")).raise_for_status().text
        values = {
            name: sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))
            for name in ("vllm:generation_tokens_total", "vllm:num_requests_running", "vllm:num_requests_waiting{")
        }
        tokens, running, waiting = values.values()
        return time.monotonic(), tokens, running + waiting


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


async def play_freely(answer: Answer, problems: Sequence[Problem], template: str, turns: int, at_once: int) -> None:
    """One trajectory a problem, every one of all its turns, `at_once` at a time."""
    prompts, left = load_prompts(template, turns), iter(problems)

    async def player() -> None:
        for problem in left:
            context = list(prompts.open(problem))
            for _ in range(turns):
                context += [{"role": "assistant", "content": await answer(context)}, FEEDBACK]

    await asyncio.gather(*(player() for _ in range(at_once)))
