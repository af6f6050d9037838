"""The same problems played by the service, with turn barriers, and by a bare client alone with the engine."""

import asyncio
import gzip
import json
import os
import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from math import log, sqrt
from pathlib import Path
from statistics import geometric_mean, stdev

from rich.console import Console
from rich.table import Table

from bench.barrier import Engine, Rate, connect, play_chunks, play_freely
from bench.rollout_stack import run_engine, run_stack
from bench.scripted_engine import MODEL, Script
from cli.engine import SERVED_NAME, engine_command
from cli.local_stack import ENGINE_START_S, http_check
from cli.model import ensure_model
from cli.ports import choose_free
from cli.process import Service, supervise
from shared.measures import RolloutSummary
from shared.trajectory import Problem
from shared.verifier_client import VerifierClient

DATA = Path("../shared/data/gsm8k_test.jsonl.gz")
BRIEF = "{{ problem }}\nAnswer in one or two sentences."
"""Asked the bare problem, the small model runs into 256 tokens with half of its answers: of one length, not of many."""
Figures = dict[str, float | dict[str, float]]
console = Console()


@dataclass(frozen=True)
class Load:
    """One comparison of protocols."""

    slots: int
    problems: Sequence[Problem]
    siblings: int
    template: str
    max_tokens: int
    turns: int = 3


def read_problems(count: int) -> list[Problem]:
    """Word problems with numeric answers."""
    if DATA.is_file():
        with gzip.open(DATA, "rt") as lines:
            rows = [json.loads(next(lines)) for _ in range(count)]
        return [Problem(id=row["id"], kind="math", problem=row["problem"], answer=row["answer"]) for row in rows]
    return make_sums(count)


def make_sums(count: int) -> list[Problem]:
    """Problems of one kind, all different."""
    return [
        Problem(id=str(n), kind="math", problem=f"Ann has {n} apples and buys {n + 3}. How many?", answer="7")
        for n in range(count)
    ]


@asynccontextmanager
async def run_vllm(slots: int) -> AsyncIterator[str]:
    """URL of a real vLLM that decodes `slots` requests at once."""
    port = choose_free({"engine": 0})["engine"]
    url = f"http://127.0.0.1:{port}"
    command = engine_command(str(ensure_model(Path(".drift/model"))), port, os.cpu_count() or 1)
    flags = [*command.command, "--max-num-seqs", str(slots)]
    service = Service(
        "engine", flags, http_check(f"{url}/health"), command.environment, deadline_s=ENGINE_START_S, restarts=0
    )
    with tempfile.TemporaryDirectory() as logs:
        async with supervise([service], Path(logs)):
            yield url


@dataclass(frozen=True)
class Round:
    """The protocols, once each."""

    ours: Rate
    bare: Rate
    barrier: Rate | None
    turns: Sequence[int]
    """Of each trajectory of the bare client."""

    @property
    def engine_ratio(self) -> float:
        return self.ours.full / self.bare.full

    @property
    def barrier_speedup(self) -> float | None:
        return self.ours.overall / self.barrier.overall if self.barrier else None


async def play_round(
    engine: Engine, load: Load, *, pinned: bool, barriers: bool = True, before: Round | None = None
) -> Round:
    """Play all; where a round went before, in its opposite order: a machine that slows down favours none."""
    every = [problem for problem in load.problems for _ in range(load.siblings)]
    ours, bare, barrier = (Rate(load.slots) for _ in range(3))

    async def play_bare(turns: Sequence[int]) -> None:
        await engine.forget()
        episodes = list(zip(every, turns, strict=True))
        await engine.watch(bare, play_freely(engine.answer, episodes, load.template, load.turns, load.slots * 3 // 2))

    if before:
        await play_bare(before.turns)
    async with run_stack(engine.url, pinned=pinned) as stack, VerifierClient(stack.verifier_url) as verifier:
        # Whoever comes first must not be the one to wait for what engine and verifier do once only.
        short = replace(engine, max_tokens=min(32, load.max_tokens))
        await play_chunks(short.answer, verifier, every[: load.slots], load.template, 2, load.slots)

        async def play_barriers() -> None:
            await engine.forget()
            chunks = play_chunks(engine.answer, verifier, every, load.template, load.turns, load.slots)
            await engine.watch(barrier, chunks, stack.spend)

        # Never between the other two, which are closer together in what they give.
        if barriers and not before:
            await play_barriers()
        await engine.forget()
        protocol = {"template": load.template, "max_turns": load.turns}
        sampling = {"trajectories": load.siblings, "max_tokens": load.max_tokens}
        job = asyncio.ensure_future(stack.run_job(load.problems, protocol=protocol, sampling=sampling))
        await engine.watch(ours, job, stack.spend)
        turns = spread_turns(job.result().rollouts[0], load.turns)
        if barriers and before:
            await play_barriers()
    if not before:
        await play_bare(turns)
    return Round(ours, bare, barrier if barriers else None, turns)


def spread_turns(summary: RolloutSummary, most: int) -> list[int]:
    """For each trajectory a number of turns, as many of each as were played; later turns have longer prompts."""
    solved = [round(share * summary.trajectories) for share in summary.multi_at[: most - 1]]
    turns = [1 + sum(place >= count for count in solved) for place in range(summary.trajectories)]
    random.Random(0).shuffle(turns)
    return turns


def show_round(title: str, played: Round) -> None:
    """Print a table; prefill tells work from waiting, CPU seconds a second are what the engine's neighbours took."""
    columns = ("tokens/s", "outside the tail", "running there", "seconds", "answers", "prefill/token", "CPU beside")
    table = Table("", *columns, title=title)
    for name, rate in (("this service", played.ours), ("engine alone", played.bare), ("turn barriers", played.barrier)):
        if rate is None:
            continue
        # With barriers there is work for every slot at the beginning of a turn only.
        full = ("", "") if rate is played.barrier else (f"{rate.full:,.0f}", f"{rate.running:.1f}")
        work = f"{rate.answers:,}", f"{rate.prompt_per_token:.2f}", f"{rate.cpu_seconds / rate.seconds:.3f}"
        table.add_row(name, f"{rate.overall:,.0f}", *full, f"{rate.seconds:.0f}", *work)
    console.print(table)
    speedup = f"  barrier_speedup {played.barrier_speedup:.3f}" if played.barrier_speedup else ""
    console.print(f"engine_ratio {played.engine_ratio:.3f}{speedup}")


async def measure_engine(slots: int, rounds: int) -> tuple[float, float]:
    """The part `engine` for one number of slots: engine_ratio and barrier_speedup, geometric means over the rounds."""
    siblings, trajectories = 8, 3 * slots
    load = Load(slots, read_problems(trajectories // siblings), siblings, BRIEF, 256)
    played: list[Round] = []
    async with run_vllm(load.slots) as url, connect(url, SERVED_NAME, load.max_tokens) as engine:
        for place in range(rounds):
            before = played[-1] if place % 2 else None
            played.append(await play_round(engine, load, pinned=False, barriers=place < 2, before=before))
            show_round(f"Real vLLM, {slots} slots, {trajectories} trajectories of {load.turns} turns", played[-1])
    ratios = [each.engine_ratio for each in played]
    error = stdev(map(log, ratios)) / sqrt(rounds)
    console.print(f"{slots} slots: engine_ratio {geometric_mean(ratios):.3f}, standard error {100 * error:.1f} %")
    return geometric_mean(ratios), geometric_mean(each.barrier_speedup for each in played if each.barrier_speedup)


async def measure_long_tail(trajectories: int) -> Figures:
    """The part `long-tail`."""
    load = Load(256, make_sums(trajectories // 8), 8, "plain", 8192)
    script = Script(slots=load.slots, tokens=1000, sigma=1.0, token_seconds=0.0005)
    async with run_engine() as url, connect(url, MODEL, load.max_tokens) as engine:
        (await engine.http.post(f"{url}/script", content=script.model_dump_json())).raise_for_status()
        played = await play_round(engine, load, pinned=True)
    show_round(f"Scripted engine, lengths log-normal, {trajectories} trajectories of {load.turns} turns", played)
    assert played.barrier_speedup
    return {"barrier_speedup_long_tail": played.barrier_speedup}
