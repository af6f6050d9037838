"""The verifier against math-verify and string equality: accuracy and speed, same machine, same inputs, one run.

    python -m bench.verifier [--data FILE] [--passes N] [--json FILE]

Graders: this service over HTTP; math-verify in a process of its own, as its README shows; a `multiprocessing.Pool` of
math-verify with one process a core; equality of strings. The graders take turns, pass after pass. In each pass every
grader starts afresh, is warmed on the same other rows, and has nothing of the rows in a cache. A figure of speed is the
median of its ratios, one of each pass. Figures of `--json`:

    accuracy                 share of all rows that the service grades as labelled
    false_positives          rows labelled wrong that it calls correct
    p50_ratio                median grading time in the server, fast tiers (ms of each result), over math-verify's
                             median on the same rows
    set_speedup              items/s of the service on the math rows over those of the pool
    rollout_stream_speedup   the same on a stream where 16 siblings share four responses
"""

import argparse
import gzip
import json
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from math_verify import parse, verify
from rich.console import Console
from rich.table import Table

from shared.grading import Verdict, VerifyItem, VerifyResult
from shared.verifier_client import BlockingVerifierClient

DATA = Path("../shared/data/verifier_dev.jsonl.gz")
SIBLINGS = 16
ANSWERS = 4
START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled row."""

    kind: str
    gold: str
    response: str
    correct: bool


@dataclass(frozen=True, slots=True)
class Report:
    """One grader's figures on the math rows; times in milliseconds."""

    name: str
    right: int
    false_positives: int
    false_negatives: int
    p50: float
    p99: float
    items_per_second: float
    stream_per_second: float


WARM_UP = [
    Case("math", gold.replace("N", str(number)), response.replace("N", str(number)), correct=True)
    for number in range(11, 51)
    for gold, response in (
        (r"\frac{N}{7}", r"We find $x$. So it is $\boxed{\frac{N}{7}}$."),
        ("N/7", "We add them.\nThe answer is N."),
        ("N+x", "$N+x$"),
        ("N", "<think>\nIt is N or so.\n</think>\n<answer> N </answer>"),
        ("N.5", "Hence the mean of all is N.50 in the end"),
        (r"N\%", r"That makes \boxed{N\%} of them."),
        (r"\$N", "**Answer:** N dollars"),
        ("(N, 2)", r"The point is $\boxed{(N,2)}$"),
        (r"[-1, N)", r"\[ \boxed{[-1,N)} \]"),
        ("x = N", r"Therefore, $x=N$."),
        (r"N\sqrt{3}", r"It is \boxed{N\sqrt{3}}."),
        ("N^2", r"\(N^{2}\)"),
    )
]
"""Neither grader is timed on its first steps, which a server that runs for days takes once: both grade these rows
before, of many shapes, and nothing of them comes back."""


def load(path: Path) -> list[Case]:
    """The rows of a gzipped JSONL file of cases."""
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    return [Case(row["kind"], row["gold"], row["response"], row["correct"]) for row in rows]


def rollout_stream(cases: Sequence[Case]) -> list[Case]:
    """Each problem sixteen times: its siblings share four responses, one of them its own, the others its
    neighbours'."""
    chooser = random.Random(0)
    stream: list[Case] = []
    for place, case in enumerate(cases):
        responses = [cases[(place + step) % len(cases)].response for step in range(ANSWERS)]
        stream.extend(Case(case.kind, case.gold, chooser.choice(responses), case.correct) for _ in range(SIBLINGS))
    return stream


def math_verify_grade(case: Case) -> tuple[bool, float]:
    """math-verify's verdict and milliseconds."""
    start = time.perf_counter()
    right = bool(verify(parse(case.gold), parse(case.response)))
    return right, (time.perf_counter() - start) * 1000


def string_grade(case: Case) -> tuple[bool, float]:
    """String equality's verdict and milliseconds."""
    start = time.perf_counter()
    return "".join(case.gold.split()).lower() == "".join(case.response.split()).lower(), (
        time.perf_counter() - start
    ) * 1000


@contextmanager
def service() -> Iterator[BlockingVerifierClient]:
    """A fresh service, warm, and with nothing of the rows in its cache."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "DRIFT_VERIFIER_PORT": str(port),
        "DRIFT_VERIFIER_HOST": "127.0.0.1",
        "DRIFT_API_KEYS": "",
    }
    process = subprocess.Popen([sys.executable, "-m", "services.verifier"], env=environment)
    try:
        with BlockingVerifierClient(f"http://127.0.0.1:{port}") as client:
            client.wait_until_ready(START_SECONDS)
            grade(client, WARM_UP)
            yield client
    finally:
        process.terminate()
        process.wait()


def grade(client: BlockingVerifierClient, cases: Sequence[Case]) -> tuple[list[VerifyResult], float]:
    """The service's results and the seconds they took, HTTP included."""
    items = [
        VerifyItem.model_validate({"id": str(place), "kind": case.kind, "response": case.response, "answer": case.gold})
        for place, case in enumerate(cases)
    ]
    start = time.perf_counter()
    results = client.verify(items)
    return results, time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Pass:
    """What one grader did in one pass: verdicts and milliseconds on the math rows, seconds for them, seconds for the
    stream (0 where it was not asked)."""

    verdicts: list[bool]
    times: list[float]
    seconds: float
    stream_seconds: float = 0.0


def service_pass(cases: Sequence[Case], stream: Sequence[Case]) -> tuple[Pass, list[float]]:
    """The service's pass, and the times of what its fast tiers decided."""
    with service() as client:
        results, seconds = grade(client, cases)
    with service() as client:
        _, stream_seconds = grade(client, stream)
    fast = [result.ms for result in results if result.method in ("string", "numeric")]
    verdicts = [result.verdict == Verdict.CORRECT for result in results]
    return Pass(verdicts, [result.ms for result in results], seconds, stream_seconds), fast


def math_verify_pass(cases: Sequence[Case], stream: Sequence[Case], processes: int) -> Pass:
    """math-verify's pass in so many fresh processes."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(math_verify_grade, WARM_UP, chunksize=1)
        start = time.perf_counter()
        graded = pool.map(math_verify_grade, cases, chunksize=1)
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        pool.map(math_verify_grade, stream, chunksize=1)
        stream_seconds = time.perf_counter() - start if stream else 0.0
    return Pass([right for right, _ in graded], [ms for _, ms in graded], seconds, stream_seconds)


def string_pass(cases: Sequence[Case]) -> Pass:
    """String equality's pass."""
    start = time.perf_counter()
    graded = [string_grade(case) for case in cases]
    return Pass([right for right, _ in graded], [ms for _, ms in graded], time.perf_counter() - start)


def measure(cases: Sequence[Case], passes: int) -> tuple[list[Report], dict[str, float], dict[str, list[float]]]:
    """All graders' reports on the math rows, the figures of `--json`, and each speed ratio of each pass."""
    math_cases = [case for case in cases if case.kind == "math"]
    stream = rollout_stream(math_cases)
    processes = len(os.sched_getaffinity(0))
    names = ("this service (HTTP)", "math-verify, one process", f"math-verify, pool of {processes}", "string equality")
    taken: dict[str, list[Pass]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {"p50_ratio": [], "set_speedup": [], "rollout_stream_speedup": []}
    for _ in range(passes):
        ours, fast = service_pass(math_cases, stream)
        alone = math_verify_pass(math_cases, (), 1)
        pooled = math_verify_pass(math_cases, stream, processes)
        for name, turn in zip(names, (ours, alone, pooled, string_pass(math_cases)), strict=True):
            taken[name].append(turn)
        ratios["p50_ratio"].append(statistics.median(fast) / statistics.median(alone.times))
        ratios["set_speedup"].append(pooled.seconds / ours.seconds)
        ratios["rollout_stream_speedup"].append(pooled.stream_seconds / ours.stream_seconds)
    with service() as client:
        results, _ = grade(client, cases)
    correct = [result.verdict == Verdict.CORRECT for result in results]
    figures = {
        "accuracy": sum(case.correct == verdict for case, verdict in zip(cases, correct, strict=True)) / len(cases),
        "false_positives": sum(verdict and not case.correct for case, verdict in zip(cases, correct, strict=True)),
        **{name: statistics.median(values) for name, values in ratios.items()},
    }
    return [report(name, math_cases, len(stream), turns) for name, turns in taken.items()], figures, ratios


def report(name: str, cases: Sequence[Case], streamed: int, turns: Sequence[Pass]) -> Report:
    """The figures of one grader: verdicts of its first pass, medians over its passes."""
    ordered = [sorted(turn.times) for turn in turns]
    seconds = statistics.median(turn.stream_seconds for turn in turns)
    graded = list(zip(cases, turns[0].verdicts, strict=True))
    return Report(
        name,
        sum(case.correct == verdict for case, verdict in graded),
        sum(verdict and not case.correct for case, verdict in graded),
        sum(case.correct and not verdict for case, verdict in graded),
        statistics.median(map(statistics.median, ordered)),
        statistics.median(times[int(len(times) * 0.99)] for times in ordered),
        statistics.median(len(cases) / turn.seconds for turn in turns),
        streamed / seconds if seconds else 0.0,
    )


def show(reports: Sequence[Report], figures: dict[str, float], ratios: dict[str, list[float]]) -> None:
    """Print the table and the figures."""
    table = Table(
        "grader", "right", "false +", "false -", "p50 ms", "p99 ms", "items/s", "stream items/s", title="Math rows"
    )
    for line in reports:
        total = line.right + line.false_positives + line.false_negatives
        table.add_row(
            line.name,
            f"{line.right / total:.3f}",
            str(line.false_positives),
            str(line.false_negatives),
            f"{line.p50:.3f}",
            f"{line.p99:.1f}",
            f"{line.items_per_second:,.0f}",
            f"{line.stream_per_second:,.0f}" if line.stream_per_second else "",
        )
    console = Console()
    console.print(table)
    for name, figure in figures.items():
        spread = f"   ({min(ratios[name]):.4g} to {max(ratios[name]):.4g})" if name in ratios else ""
        console.print(f"{name:24} {figure:.4g}{spread}", highlight=False)


def main() -> None:
    """Entry point; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=DATA, help="gzipped JSONL of cases {kind, gold, response, correct}"
    )
    parser.add_argument("--passes", type=int, default=5, help="turns that each grader takes")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    reports, figures, ratios = measure(load(arguments.data), arguments.passes)
    show(reports, figures, ratios)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
