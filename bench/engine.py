"""Settings of the local CPU engine under a load like the demo's: requests and tokens a second, as ratios to the first.

    python -m bench.engine [--json FILE] [--problems N] [VARIANT ...]

Each variant starts its own vLLM and plays episodes of three turns, eight siblings a problem at temperature 1, then
one greedy episode a problem. Measure on a quiet machine: its threads wait for each other at every operation.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import httpx

from cli.engine import EngineCommand, engine_command
from cli.generator import generate
from cli.local_stack import ENGINE_START_S, http_check
from cli.model import ensure_model
from cli.ports import choose_free
from cli.process import Service, supervise
from services.rollout.engine import Engine, Sampling
from services.rollout.prompts import load_prompts
from shared.trajectory import Problem

TURNS, SIBLINGS, IN_FLIGHT, MAX_TOKENS = 3, 8, 128, 8
FEEDBACK = {"role": "user", "content": "Incorrect. Please think again."}


@dataclass(frozen=True)
class Variant:
    """What differs from the settings in force."""

    flags: dict[str, str | None] = field(default_factory=dict)
    """Flag -> its value; None takes the flag out."""
    environment: dict[str, str] = field(default_factory=dict)


_WORKER_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}

VARIANTS = {
    "in force": Variant(),
    "one core": Variant(environment={"OMP_NUM_THREADS": "1"}),
    "vLLM's own": Variant(environment={**_WORKER_PROCESS, "VLLM_CPU_OMP_THREADS_BIND": "auto"}),
    "worker process": Variant(
        environment={**_WORKER_PROCESS, "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}"}
    ),
    "blocks of 128": Variant({"--block-size": "128"}),
    "64 sequences": Variant({"--max-num-seqs": "64"}),
    "float32": Variant({"--dtype": "float32"}),
    "passive waiting": Variant(environment={"OMP_WAIT_POLICY": "PASSIVE"}),
    "compiled": Variant({"--enforce-eager": None}),
}


@dataclass(frozen=True)
class Speed:
    """One load under one variant."""

    variant: str
    load: str
    ready_s: float
    requests_per_s: float
    generated_tokens_per_s: float
    prompt_tokens_per_s: float


def alter(command: EngineCommand, variant: Variant) -> EngineCommand:
    """The command with the variant's flags and environment."""
    flags = list(command.command)
    for flag, value in variant.flags.items():
        place = flags.index(flag)
        if value is None:
            del flags[place]
        else:
            flags[place + 1] = value
    return replace(command, command=flags, environment={**command.environment, **variant.environment})


async def play(
    engine: Engine, model: str, problems: Sequence[Problem], temperature: float
) -> tuple[int, int, int, float]:
    """Requests, generated and prompt tokens, and seconds of one episode a problem, `IN_FLIGHT` at once."""
    prompts, places = load_prompts("auto", TURNS), asyncio.Semaphore(IN_FLIGHT)
    sampling = Sampling(temperature, MAX_TOKENS)
    requests = generated = prompted = 0

    async def episode(problem: Problem) -> None:
        nonlocal requests, generated, prompted
        async with places:
            messages = list(prompts.open(problem))
            for _ in range(TURNS):
                answer = await engine.answer(model, messages, sampling)
                requests += 1
                generated += len(answer.token_ids)
                prompted += len(answer.prompt_token_ids)
                messages += [{"role": "assistant", "content": answer.text}, FEEDBACK]

    begun = time.monotonic()
    await asyncio.gather(*map(episode, problems))
    return requests, generated, prompted, time.monotonic() - begun


async def measure(name: str, variant: Variant, model: Path, count: int) -> list[Speed]:
    """Both loads on a fresh engine with this variant's settings."""
    port = choose_free({"engine": 0})["engine"]
    url = f"http://127.0.0.1:{port}"
    command = alter(engine_command(str(model), port, os.cpu_count() or 1), variant)
    service = Service(
        "engine",
        command.command,
        http_check(f"{url}/health"),
        command.environment,
        deadline_s=ENGINE_START_S,
        restarts=0,
    )
    made = generate(count, 3 * count, seed=1)
    loads = {"rollout": ([problem for problem in made.train for _ in range(SIBLINGS)], 1.0), "greedy": (made.test, 0.0)}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as logs:
        async with supervise([service], Path(logs)), httpx.AsyncClient(timeout=600, limits=httpx.Limits()) as http:
            ready = time.monotonic() - begun
            engine = Engine(url, http)
            served = await engine.served_model()
            await play(engine, served.name, made.test[:8], 1.0)  # the first requests pay for set-up
            speeds = []
            for load, (problems, temperature) in loads.items():
                requests, generated, prompted, seconds = await play(engine, served.name, problems, temperature)
                speeds.append(Speed(name, load, ready, requests / seconds, generated / seconds, prompted / seconds))
            return speeds


def print_table(speeds: Sequence[Speed]) -> None:
    """Every load's requests a second, and their ratio to the first variant's."""
    first = {speed.load: speed for speed in reversed(speeds)}
    print(
        f"{'variant':18} {'load':8} {'ready s':>8} {'requests/s':>11} {'generated/s':>12} {'prompt/s':>9} {'ratio':>6}"
    )
    for speed in speeds:
        ratio = speed.requests_per_s / first[speed.load].requests_per_s
        print(
            f"{speed.variant:18} {speed.load:8} {speed.ready_s:8.0f} {speed.requests_per_s:11.1f}"
            f" {speed.generated_tokens_per_s:12.1f} {speed.prompt_tokens_per_s:9.0f} {ratio:6.2f}"
        )


def main() -> None:
    """Measure the named variants, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--problems", type=int, default=24, help="problems of the rollout load; the greedy one has 3x")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    unknown = set(arguments.variants) - set(VARIANTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(VARIANTS)}")
    model = ensure_model(Path(".drift/model"))
    speeds: list[Speed] = []
    for name in arguments.variants or VARIANTS:
        speeds += asyncio.run(measure(name, VARIANTS[name], model, arguments.problems))
        print_table(speeds[-2:])
    print()
    print_table(speeds)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(speed) for speed in speeds], indent=1))


if __name__ == "__main__":
    main()
