"""Hostile inputs against a running verifier: every one answered in time, and normal traffic undisturbed beside a flood.

    python -m bench.hostile [--seconds N] [--json FILE]

Starts a verifier of its own, grades each hostile input alone, then normal traffic without and with a flood of all
hostile inputs, and watches the workers' memory. Figures of `--json`:

    hostile_inputs          how many inputs
    answered_in_time        how many of them were answered within 2.5 s, each asked alone
    slowest_seconds         the slowest answer
    false_positives         inputs whose wrong answer was called correct
    worker_peak_rss_gb      the largest resident set of any process of the verifier, gigabytes
    alive_after             1 if the server answers a plain item afterwards
    normal_p99_ratio        p99 of normal requests beside the flood over p99 without it, median of the passes
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from rich.console import Console

from bench.verifier import WARM_UP, grade, service
from shared.grading import Verdict, VerifyItem
from shared.verifier_client import BlockingVerifierClient

DEADLINE_SECONDS = 2.5
PASSES = 3
FLOOD_CLIENTS = 2

CALCULUS = (
    r"\int \sin(x)^{\cos x} \ln(\tan x) dx",
    r"\int_0^\infty \frac{\sin(x^x)}{\ln(1+x^{x})} dx",
    r"\int e^{e^{x}} \sqrt{\tan x} dx",
    r"\int \frac{1}{\sin x + \ln x + e^x} dx",
    r"\int_0^1 \int_0^1 \int_0^1 \sqrt{x^y+y^z+z^x} dx dy dz",
    r"\int x^{x^x} \cos(x^{x}) dx",
    r"\int \frac{x^{97}+3x^{51}+1}{x^{60}+x^{31}+7x+2} dx",
    r"\int \sqrt{\sin(x)+\sqrt{\cos(x)+\sqrt{x}}} dx",
    r"\lim_{x\to 0} \frac{\sin(\tan(\sin(\tan x)))-\tan(\sin(\tan(\sin x)))}{x^{7}}",
    r"\lim_{x\to\infty} \left(\frac{x^{x}}{\Gamma(x)e^{x}}\right)^{\ln\ln x}",
    r"\lim_{n\to\infty} \frac{(n!)^{1/n}}{n}",
    r"\lim_{x\to 0^+} x^{x^{x^{x}}}",
    r"\sum_{n=1}^{\infty} \frac{\sin(n^2)\ln n}{n^{n}+n!}",
    r"\sum_{k=1}^{n} (k+x+y+z)^{60}",
    r"\sum_{n=1}^{\infty} \frac{1}{n^{3}\sin^{2} n}",
    r"\sum_{n=0}^{\infty} \binom{2n}{n}^{3} \frac{x^{n}}{64^{n}}",
    r"\sum_{i=1}^{10000000} \frac{1}{i^{2}+1}",
    r"\prod_{n=1}^{\infty} \left(1+\frac{x}{n^{3}+n}\right)",
    r"\prod_{k=1}^{99999999} k",
    r"\frac{d}{dx} \int (a+b+c+d+x)^{40} dx",
    r"\frac{d^{9}}{dx^{9}} \sin(\cos(\tan(\sin(\cos(\tan x)))))",
    r"\int_{-\infty}^{\infty} e^{-x^{4}+x^{3}+x} dx",
)
TOWERS = (
    "9^{9^{9^{9^{9}}}}",
    "10^{10^{10}}",
    "9**9**9**9",
    "2^{2^{2^{2^{2^{2}}}}}",
    "(((9^{9})^{99})^{99})^{999}",
    "2^{999999999999}",
    "1.0000001^{9999999999}",
    "x^{x^{x^{x^{x^{x^{x}}}}}}",
    "((x^{99})^{99})^{99}",
    "e^{e^{e^{e^{e}}}}",
    "0.1^{-10^{9}}",
    r"\sqrt[99999999]{10^{99999}}",
    r"7^{7^{7}} \bmod 10^{9}",
    r"10^{-10^{10}}",
    "(1+i)^{99999999}",
)
COMBINATORICS = (
    "99999999!",
    "((((9!)!)!)!)!",
    "100000!!",
    r"\binom{10^{9}}{5\cdot 10^{8}}",
    r"\binom{99999999}{44444444}",
    r"\frac{1000000!}{999998!}",
    r"\gcd(99999!, 88888!)",
    r"\Gamma(10^{8})",
    r"\binom{\binom{99999}{5000}}{777}",
    "factorial(10**8)",
    "binomial(10**9, 10**8)",
)
ALGEBRA = (
    "(x+y+z+w)^{500}",
    "(1+x)**5000",
    "*".join(f"(x+{n})" for n in range(1, 200)),
    "+".join(f"x^{{{n}}}" for n in range(1, 300)),
    r"\sqrt{2+" * 60 + "2" + "}" * 60,
    "((a+b+c+d+e)^{30}+(a-b-c-d-e)^{30})^{30}",
    r"\sin(" * 70 + "x" + ")" * 70,
    r"\frac{1}{" * 78 + "2" + "}" * 78,
    "|" * 200 + "x" + "|" * 200,
    r"\sqrt[7]{\sqrt[11]{\sqrt[13]{2}+\sqrt[17]{3}}+\sqrt[19]{5}}",
    r"\log_{\log_{\log_{2}3}4}5",
    r"\max(" + ",".join(map(str, range(700))) + ")",
    "-" * 3000 + "1",
    r"\pm" * 40 + "1",
    " ".join([r"1\pm2"] * 30),
    "2^{1/3}" + "+2^{1/3}" * 300,
)
DIGITS = (
    "7" * 100_000,
    "0." + "3" * 50_000,
    "1e999999999",
    "1e-999999999",
    "1" * 3_000 + "/" + "7" * 3_000,
    "1,000" * 5_000,
    "0." + r"\overline{" + "142857" * 400 + "}",
    "1.5e400 \\times 10^{400}",
    "0x" + "f" * 4_000,
)
STRUCTURES = (
    r"\begin{pmatrix}" + r"\\".join("&".join(["x^2+1"] * 30) for _ in range(30)) + r"\end{pmatrix}",
    r"\begin{vmatrix}" + r"\\".join("&".join(map(str, range(40))) for _ in range(40)) + r"\end{vmatrix}",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{99999999}",
    r"\{" + ",".join(f"\\sqrt{{{n}}}" for n in range(600)) + r"\}",
    "(" * 5_000 + "1" + ")" * 5_000,
    "{" * 5_000 + "1" + "}" * 5_000,
    "[" * 3_000 + "1" + "]" * 3_000,
    "(" * 20_000,
    "}" * 20_000,
    r"\left(" * 2_000 + "x" + r"\right)" * 2_000,
    r"\cup".join(f"({n},{n + 1})" for n in range(400)),
    ",".join(f"x={n}" for n in range(900)),
    r"\frac" * 4_000,
    "^" * 4_000,
    r"\text{" * 2_000 + "a" + "}" * 2_000,
    "x_{" * 1_000 + "1" + "}" * 1_000,
    "{" * 25 + "x|x}" * 25,
    "C(" * 25 + "x" + ")" * 25,
    r"1\frac{" * 25 + "1" + "}{x}" * 25,
)
TEXTS = (
    "a" * 200_000,
    "ab " * 60_000,
    " " * 200_000,
    "\n" * 200_000,
    "\\" * 100_000,
    "$" * 100_001,
    "$ " * 60_000,
    "is not and or " * 15_000,
    "1, 2 and 3 or " * 15_000,
    "ẞ" * 50_000,
    "𝟙" * 50_000,
    "\u202e\u200b\ufeff" * 30_000,
    "e\u0301" * 50_000,
    "٣" * 20_000,
    "é" * 80_000,
    "²³" * 20_000,
    "½" * 9_000,
    "𝒙²√∑∫" * 5_000,
    "\x00\x01\x08oxed{" * 5_000,
)
WHOLE = (
    "{" * 40 + "Option",
    "<think></think>" * 15_000,
    "<think>" * 30_000,
    "</think>" * 30_000,
    "<answer>" * 30_000,
    "<answer></answer>" * 15_000,
    "<answer>[your answer]</answer>" * 8_000,
    r"\boxed{" * 30_000,
    r"\boxed{1}" * 25_000,
    r"\boxed{" * 9_000 + "1" + "}" * 9_000,
    r"\boxed" * 40_000,
    "The answer is " * 18_000,
    "answer: " * 30_000,
    "#### " * 50_000,
    "The answer is not " * 14_000,
    "$x$ and " * 30_000,
    r"\( " * 60_000,
    r"\begin{align*} " * 16_000,
    "1 " * 120_000,
    "<|im_start|>" * 20_000,
    "\nQuestion: " * 20_000,
)


def hostile_items() -> list[VerifyItem]:
    """Every hostile input as an item: as a boxed answer against a neighbour of its own, or as a whole response."""
    answers = (*CALCULUS, *TOWERS, *COMBINATORICS, *ALGEBRA, *DIGITS, *STRUCTURES, *TEXTS)
    boxed = [(rf"\boxed{{{text}}}", f"-1-({text})" if len(text) < 8_000 else text[:7_000]) for text in answers]
    return [
        VerifyItem(id=f"hostile {place}", response=response[:250_000], answer=gold)
        for place, (response, gold) in enumerate([*boxed, *((text, "1000003") for text in WHOLE)])
    ]


@contextmanager
def watched(root: psutil.Process) -> Iterator[list[int]]:
    """Record the largest resident set of a process and its descendants, bytes, until the block ends."""
    peak = [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for process in (root, *root.children(recursive=True)):
                try:
                    peak[0] = max(peak[0], process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def normal_p99(client: BlockingVerifierClient, seconds: float) -> float:
    """p99 in milliseconds of single normal requests, one after the other; no request is in a cache."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < end:
        number += 1
        item = VerifyItem(id="n", response=rf"So the sum is \boxed{{\frac{{{number}}}{{7}}}}.", answer=f"{number}/7")
        start = time.perf_counter()
        client.verify([item])
        times.append((time.perf_counter() - start) * 1000)
    return sorted(times)[int(len(times) * 0.99)]


@contextmanager
def flood(address: str, items: list[VerifyItem]) -> Iterator[None]:
    """All hostile items again and again, each round with fresh golds, from several clients."""
    over = threading.Event()

    def pour(client_number: int) -> None:
        with BlockingVerifierClient(address) as client:
            turn = 0
            while not over.is_set():
                turn += 1
                for item in items:
                    if over.is_set():
                        return
                    gold = f"{client_number}{turn}+{item.answer}"
                    client.verify([item.model_copy(update={"answer": gold, "deadline_ms": 1_000})])

    pourers = [threading.Thread(target=pour, args=(number,)) for number in range(FLOOD_CLIENTS)]
    for pourer in pourers:
        pourer.start()
    try:
        yield
    finally:
        over.set()
        for pourer in pourers:
            pourer.join()


def measure(seconds: float) -> dict[str, float]:
    """The figures of `--json`."""
    items = hostile_items()
    with service() as client, watched(psutil.Process()) as peak:
        taken: list[float] = []
        verdicts: list[Verdict] = []
        for item in items:
            start = time.perf_counter()
            verdicts.append(client.verify([item])[0].verdict)
            taken.append(time.perf_counter() - start)
        ratios: list[float] = []
        for _ in range(PASSES):
            grade(client, WARM_UP)
            alone = normal_p99(client, seconds)
            with flood(client.address, items):
                beside = normal_p99(client, seconds)
            ratios.append(beside / alone)
        alive = client.verify([VerifyItem(id="plain", response="5", answer="5")])[0].verdict == Verdict.CORRECT
    return {
        "hostile_inputs": len(items),
        "answered_in_time": sum(second <= DEADLINE_SECONDS for second in taken),
        "slowest_seconds": max(taken),
        "false_positives": sum(verdict == Verdict.CORRECT for verdict in verdicts),
        "worker_peak_rss_gb": peak[0] / 1e9,
        "alive_after": float(alive),
        "normal_p99_ratio": statistics.median(ratios),
    }


def main() -> None:
    """Entry point; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each stretch of normal traffic")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures = measure(arguments.seconds)
    for name, figure in figures.items():
        Console().print(f"{name:24} {figure:.4g}", highlight=False)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
