"""The rollout service against turn barriers and against the engine's own maximum; what a turn costs; how that grows.

    python -m bench.rollout [PART ...] [--quick | --full] [--json FILE]

Every part runs the real service, a real Valkey with AOF, the real verifier and the recorder, each in its own process.

engine    a real vLLM on this machine and the small model; GSM8K where ../shared/data has it, else sums in words; three
          turns of up to 256 tokens. Tokens a second by the engine's own counters, warmed up first, its prefix cache
          emptied in between; means of several rounds of three chunks, every other round in the opposite order, since
          a machine's speed may drift by a tenth within minutes (barriers in the first two only). With 16 slots, where a
          step of two cores costs little more with all of them than with half, as a GPU's does; and with 64
          (`.._64_slots`), where it costs in proportion, so that a slot that waits costs next to nothing:
            engine_ratio              the service over the same problems played by a bare client, with as many episodes
                                      of each number of turns as the service's had, alone with the engine and always
                                      with more requests there than it has slots; both outside the tail
            barrier_speedup           the service over chunks of as many trajectories as the engine has slots,
                                      which wait for each other at every turn; both from the first request to the
                                      last answer
long-tail a scripted engine of 256 slots, lengths log-normal up to 8,192 tokens, time-scaled:
            barrier_speedup_long_tail the same, chunks of 256
service   a scripted engine; the service has one core to itself (where the machine has two), all others share the rest:
            turns_per_s               with an engine that takes no time, best of the numbers in flight
            p99_overhead_ms           by trajectories in flight, while the engine takes as long as makes 600 turns a
                                      second: from an answer's departure to the arrival of the trajectory's next
                                      request, both as the engine sees them; verdict and queues included. An engine
                                      that takes no time would say nothing of it: N in flight at X turns a second
                                      take N / X seconds each whatever the service does (Little's law). Until the
                                      last N begin: from then on all that are left play together, and wait for places
growth    jobs of 1k, 10k, 100k trajectories (1M with --full) of one or two turns, an engine that takes no time:
            cost_growth               time per trajectory of the largest job over that of the smallest
            service_rss_mb            most memory of the service's process, all jobs
            redis_peak_mb             most memory of Valkey, all jobs
"""

import argparse
import asyncio
import json
import statistics
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from bench.rollout_protocols import Figures, make_sums, measure_engine, measure_long_tail
from bench.rollout_stack import Stack, run_engine, run_stack
from bench.scripted_engine import Measured, Script

LOAD = 600.0
"""Turns a second while overhead is measured."""
console = Console()


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    engine: Mapping[int, int] = field(default_factory=lambda: {16: 10, 64: 2})
    """Slots of the real engine -> rounds there; the first have the figures without a number in their name."""
    long_tail: int = 2048
    turns: int = 12_000
    """For each number in flight."""
    in_flight: tuple[int, ...] = (64, 1024, 4096)
    jobs: tuple[int, ...] = (1_000, 10_000, 100_000)


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
                most = max(2 * trajectories, 3 * in_flight)
                paced = Script(seconds=in_flight / LOAD, steady=most - in_flight)
                steady = await play(stack, engine, paced, most, 5)
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


async def measure_engines(size: Size) -> Figures:
    """The part `engine`."""
    figures: Figures = {}
    for slots, rounds in size.engine.items():
        name = f"_{slots}_slots" if figures else ""
        ratio, speedup = await measure_engine(slots, rounds)
        figures |= {f"engine_ratio{name}": ratio, f"barrier_speedup{name}": speedup}
    return figures


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


PARTS: dict[str, Callable[[Size], Awaitable[Figures]]] = {
    "engine": measure_engines,
    "long-tail": lambda size: measure_long_tail(size.long_tail),
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
        size = Size(engine={16: 2}, long_tail=1024, turns=6_000, jobs=(1_000, 10_000))
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
