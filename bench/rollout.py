"""The rollout service against turn barriers and against the engine's own maximum; what a turn costs; how that grows.

    python -m bench.rollout [PART ...] [--quick | --full] [--json FILE]

Every part runs the real service, a real Valkey with AOF, the real verifier and the recorder, each in its own process.

engine    a real vLLM on this machine and the small model; GSM8K where ../shared/data has it, else sums in words; three
          turns of up to 256 tokens. Tokens a second by the engine's own counters, warmed up first, its prefix cache
          emptied in between:
            engine_ratio              the service over the same problems played by a bare client, with as many episodes
                                      of each number of turns as the service's had, alone with the engine and always
                                      with more requests there than it has slots; both outside the tail
            barrier_speedup           the service over chunks of as many trajectories as the engine has slots (64)
                                      that wait for each other at every turn; both from the first request to the
                                      last answer
long-tail a scripted engine of 256 slots, lengths log-normal up to 8,192 tokens, time-scaled:
            barrier_speedup_long_tail the same, chunks of 256
service   a scripted engine; the service has one core to itself (where the machine has two), all others share the rest:
            turns_per_s               with an engine that takes no time, best of the numbers in flight
            p99_overhead_ms           by trajectories in flight, while the engine takes as long as makes 600 turns a
                                      second: from an answer's departure to the arrival of the trajectory's next
                                      request, both as the engine sees them; verdict and queues included. An engine
                                      that takes no time would say nothing of it: N in flight at X turns a second
                                      take N / X seconds each whatever the service does (Little's law)
growth    jobs of 1k, 10k, 100k trajectories (1M with --full) of one or two turns, an engine that takes no time:
            cost_growth               time per trajectory of the largest job over that of the smallest
            service_rss_mb            most memory of the service's process, all jobs
            redis_peak_mb             most memory of Valkey, all jobs
"""

import argparse
import asyncio
import gzip
import json
import os
import random
import statistics
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from bench.barrier import Engine, Rate, connect, play_chunks, play_freely
from bench.rollout_stack import Stack, run_engine, run_stack
from bench.scripted_engine import MODEL, Measured, Script
from cli.engine import SERVED_NAME, engine_command
from cli.local_stack import ENGINE_START_S, http_check
from cli.model import ensure_model
from cli.ports import choose_free
from cli.process import Service, supervise
from shared.measures import RolloutSummary
from shared.trajectory import Problem
from shared.verifier_client import VerifierClient

DATA = Path("../shared/data/gsm8k_test.jsonl.gz")
LOAD = 600.0
"""Turns a second while overhead is measured."""
Figures = dict[str, float | dict[str, float]]
console = Console()


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    slots: int = 64
    """Of the real engine."""
    trajectories: int = 192
    """There."""
    long_tail: int = 2048
    turns: int = 12_000
    """For each number in flight."""
    in_flight: tuple[int, ...] = (64, 1024, 4096)
    jobs: tuple[int, ...] = (1_000, 10_000, 100_000)


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


async def compare(engine: Engine, load: Load, *, pinned: bool) -> tuple[Rate, Rate, Rate]:
    """The service's rate, the barrier protocol's, and that of the bare client."""
    every = [problem for problem in load.problems for _ in range(load.siblings)]
    ours, barrier, bare = (Rate(load.slots) for _ in range(3))
    async with run_stack(engine.url, pinned=pinned) as stack, VerifierClient(stack.verifier_url) as verifier:
        # Whoever comes first must not be the one to wait for what engine and verifier do once only.
        short = replace(engine, max_tokens=min(32, load.max_tokens))
        await play_chunks(short.answer, verifier, every[: load.slots], load.template, 2, load.slots)
        await engine.forget()
        protocol = {"template": load.template, "max_turns": load.turns}
        sampling = {"trajectories": load.siblings, "max_tokens": load.max_tokens}
        job = asyncio.ensure_future(stack.run_job(load.problems, protocol=protocol, sampling=sampling))
        await engine.watch(ours, job)
        await engine.forget()
        chunks = play_chunks(engine.answer, verifier, every, load.template, load.turns, load.slots)
        await engine.watch(barrier, chunks)
    await engine.forget()
    episodes = list(zip(every, spread_turns(job.result().rollouts[0], load.turns), strict=True))
    await engine.watch(bare, play_freely(engine.answer, episodes, load.template, load.turns, load.slots * 3 // 2))
    return ours, barrier, bare


def spread_turns(summary: RolloutSummary, most: int) -> list[int]:
    """For each trajectory a number of turns, as many of each as were played; later turns have longer prompts."""
    solved = [round(share * summary.trajectories) for share in summary.multi_at[: most - 1]]
    turns = [1 + sum(place >= count for count in solved) for place in range(summary.trajectories)]
    random.Random(0).shuffle(turns)
    return turns


def show_rates(title: str, rates: tuple[Rate, Rate, Rate]) -> None:
    """Print a table; what the engine had to do besides generating is there to tell work from waiting."""
    columns = ("tokens/s", "outside the tail", "running there", "seconds", "answers", "prefill/token")
    table = Table("", *columns, title=title)
    ours, barrier, bare = rates
    for name, rate in (("this service", ours), ("turn barriers", barrier), ("engine alone", bare)):
        # With barriers there is work for every slot at the beginning of a turn only.
        full = ("", "") if rate is barrier else (f"{rate.full:,.0f}", f"{rate.running:.1f}")
        work = f"{rate.answers:,}", f"{rate.prompt_per_token:.2f}"
        table.add_row(name, f"{rate.overall:,.0f}", *full, f"{rate.seconds:.0f}", *work)
    console.print(table)


async def measure_engine(size: Size) -> Figures:
    """The part `engine`."""
    siblings = 8
    load = Load(size.slots, read_problems(size.trajectories // siblings), siblings, "plain", 256)
    async with run_vllm(load.slots) as url, connect(url, SERVED_NAME, load.max_tokens) as engine:
        rates = await compare(engine, load, pinned=False)
    show_rates(f"Real vLLM, {size.trajectories} trajectories of {load.turns} turns", rates)
    ours, barrier, bare = rates
    return {"engine_ratio": ours.full / bare.full, "barrier_speedup": ours.overall / barrier.overall}


async def measure_long_tail(size: Size) -> Figures:
    """The part `long-tail`."""
    load = Load(256, make_sums(size.long_tail // 8), 8, "plain", 8192)
    script = Script(slots=load.slots, tokens=1000, sigma=1.0, token_seconds=0.0005)
    async with run_engine() as url, connect(url, MODEL, load.max_tokens) as engine:
        (await engine.http.post(f"{url}/script", content=script.model_dump_json())).raise_for_status()
        rates = await compare(engine, load, pinned=True)
    show_rates(f"Scripted engine, lengths log-normal, {size.long_tail} trajectories of {load.turns} turns", rates)
    ours, barrier, _ = rates
    return {"barrier_speedup_long_tail": ours.overall / barrier.overall}


@dataclass(frozen=True)
class Played:
    """One job against the scripted engine, as the engine saw it."""

    measured: Measured
    cpu_seconds: float
    """Of the service's process."""

    @property
    def seconds(self) -> float:
        return self.measured.last - self.measured.first

    @property
    def turns_per_s(self) -> float:
        return self.measured.turns / self.seconds

    @property
    def cpu_ms_per_turn(self) -> float:
        return 1000 * self.cpu_seconds / self.measured.turns


async def play(stack: Stack, engine: str, script: Script, trajectories: int, turns: int) -> Played:
    """Run a job of this many trajectories."""
    before = stack.cpu_seconds
    async with httpx.AsyncClient(base_url=engine, timeout=60) as http:
        (await http.post("/script", content=script.model_dump_json())).raise_for_status()
        siblings = 10
        await stack.run_job(
            make_sums(trajectories // siblings),
            protocol={"template": "plain", "max_turns": turns},
            sampling={"trajectories": siblings, "max_tokens": 64},
        )
        measured = Measured.model_validate_json((await http.get("/measured")).raise_for_status().content)
    played = Played(measured, stack.cpu_seconds - before)
    console.log(
        f"{trajectories:,} trajectories, {measured.turns:,} turns in {played.seconds:.1f} s:"
        f" {played.turns_per_s:,.0f} turns/s, {played.cpu_ms_per_turn:.2f} ms of CPU a turn,"
        f" overhead p50 {1000 * measured.overhead_p50:.0f} ms, p99 {1000 * measured.overhead_p99:.0f} ms"
    )
    return played


async def measure_service(size: Size) -> Figures:
    """The part `service`."""
    turns_per_trajectory = 2.77  # five turns at most, 0.3 of the answers right
    trajectories = int(size.turns / turns_per_trajectory)
    speed: dict[int, float] = {}
    overhead: dict[str, float] = {}
    table = Table(
        *("in flight", "turns/s, engine instant", "CPU ms a turn"),
        *("at 600 turns/s: turns/s", "overhead p50 ms", "p99", "most"),
    )
    async with run_engine() as engine:
        for in_flight in size.in_flight:
            async with run_stack(engine, in_flight) as stack:
                await play(stack, engine, Script(), 1000, 5)
                instant = await play(stack, engine, Script(), trajectories, 5)
                # At least three waves, else the beginning and the end are all there is.
                paced = Script(seconds=in_flight / LOAD)
                steady = await play(stack, engine, paced, max(trajectories, 3 * in_flight), 5)
            speed[in_flight] = instant.turns_per_s
            overhead[str(in_flight)] = 1000 * steady.measured.overhead_p99
            table.add_row(
                str(in_flight),
                f"{instant.turns_per_s:,.0f}",
                f"{instant.cpu_ms_per_turn:.2f}",
                f"{steady.turns_per_s:,.0f}",
                f"{1000 * steady.measured.overhead_p50:.1f}",
                f"{1000 * steady.measured.overhead_p99:.1f}",
                f"{1000 * steady.measured.overhead_max:.1f}",
            )
    console.print(table)
    return {"turns_per_s": max(speed.values()), "p99_overhead_ms": overhead}


async def measure_growth(size: Size) -> Figures:
    """The part `growth`."""
    cost: dict[int, float] = {}
    table = Table("trajectories", "ms per trajectory", "CPU ms", "service RSS MB", "Valkey peak MB")
    async with run_engine() as engine, run_stack(engine, 256) as stack:
        await play(stack, engine, Script(), 1000, 2)
        for trajectories in size.jobs:
            # A second of work is short: the smallest job is played five times.
            repeats = 5 if trajectories <= 1000 else 1
            played = [await play(stack, engine, Script(solved=0.5), trajectories, 2) for _ in range(repeats)]
            cpu = statistics.median(one.cpu_seconds / trajectories for one in played)
            cost[trajectories] = 1000 * statistics.median(one.seconds / trajectories for one in played)
            peak = stack.footprint
            table.add_row(
                f"{trajectories:,}",
                f"{cost[trajectories]:.3f}",
                f"{1000 * cpu:.3f}",
                f"{peak.service_rss:.0f}",
                f"{peak.redis_peak:.0f}",
            )
    console.print(table)
    return {
        "cost_growth": cost[size.jobs[-1]] / cost[size.jobs[0]],
        "service_rss_mb": stack.footprint.service_rss,
        "redis_peak_mb": stack.footprint.redis_peak,
    }


PARTS = {
    "engine": measure_engine,
    "long-tail": measure_long_tail,
    "service": measure_service,
    "growth": measure_growth,
}


async def measure(parts: Iterable[str], size: Size) -> Figures:
    """The figures of all parts."""
    figures: Figures = {}
    for part in parts:
        figures |= await PARTS[part](size)
    return figures


def main() -> None:
    """Entry point; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="a third of the time, rougher figures")
    parser.add_argument("--full", action="store_true", help="a job of a million trajectories, too")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    size = Size()
    if arguments.quick:
        size = Size(slots=32, trajectories=64, long_tail=1024, turns=6_000, jobs=(1_000, 10_000))
    if arguments.full:
        size = replace(size, jobs=(*size.jobs, 1_000_000))
    figures = asyncio.run(measure(arguments.parts or PARTS, size))
    for name, figure in figures.items():
        shown = figure if isinstance(figure, dict) else {"": figure}
        console.print(f"{name:26} {'  '.join(f'{key} {value:.4g}'.strip() for key, value in shown.items())}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
