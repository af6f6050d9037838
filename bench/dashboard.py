"""The dashboard in a real headless Chromium: how soon a job's page is there, and what a page costs that stays open.

    python -m bench.dashboard [--minutes N] [--json FILE]

Runs the real service, Valkey, verifier and recorder with a scripted engine, each in a process of its own.

paint   a job of 10,000 trajectories, its page opened in a browser without a cache; the browser's own clock:
          first_paint_s      first contentful paint, the slowest of the loads
          first_paint_p50_s  the median
          complete_s         until the curves and the what-if panel are drawn, the slowest
leak    the page of a job that rolls out, open for N minutes; after each forced garbage collection:
          heap_growth        JavaScript's heap, median of the last third over that of the first third
          node_growth        DOM nodes and listeners, likewise (the larger of both)
          refreshes          how often a live part of the page was fetched anew
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Browser, Response, async_playwright
from rich.console import Console
from rich.table import Table

from bench.rollout_stack import Stack, run_engine, run_stack
from bench.scripted_engine import Script
from shared.status import JobStatus
from shared.trajectory import Problem
from tests.browser.conftest import CHROMIUM, QUIET

PROBLEMS, SIBLINGS = 1_250, 8
LOADS = 7
SAMPLE_S = 10.0
LIVE_TURNS_S = 40.0
"""Turns a second of the job that rolls out: it changes all the time, and leaves the browser a core."""
Figures = dict[str, float]
console = Console()


@dataclass(frozen=True)
class Footprint:
    """A page after a garbage collection."""

    heap: float
    """Bytes."""
    nodes: float
    listeners: float


def make_problems(count: int) -> list[Problem]:
    return [Problem(id=str(n), kind="math", problem=f"{n} + 7 - {n}?", answer="7") for n in range(count)]


async def measure_paint(browser: Browser, url: str) -> Figures:
    """Open the page anew, several times."""
    paints: list[float] = []
    whole: list[float] = []
    for _ in range(LOADS):
        context = await browser.new_context(viewport={"width": 1280, "height": 900})
        page = await context.new_page()
        await page.goto(url)
        await page.locator("#what-if-charts canvas").nth(2).wait_for()
        await page.locator("[data-gallery] canvas").first.wait_for()
        whole.append(await page.evaluate("performance.now()") / 1000)
        paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        paints.append(await page.evaluate(paint) / 1000)
        await context.close()
    return {
        "first_paint_s": max(paints),
        "first_paint_p50_s": statistics.median(paints),
        "complete_s": max(whole),
    }


async def measure_leak(browser: Browser, url: str, minutes: float) -> Figures:
    """Keep the page open."""
    page = await browser.new_page()
    refreshes = 0

    def count(reply: Response) -> None:
        nonlocal refreshes
        refreshes += reply.request.resource_type in ("xhr", "fetch")

    page.on("response", count)
    await page.goto(url)
    await page.locator("[data-gallery] canvas").first.wait_for()
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable")
    seen: list[Footprint] = []
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        await asyncio.sleep(SAMPLE_S)
        await session.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in (await session.send("Performance.getMetrics"))["metrics"]}
        seen.append(Footprint(metrics["JSHeapUsedSize"], metrics["Nodes"], metrics["JSEventListeners"]))
        console.print(f"{len(seen) * SAMPLE_S:6.0f} s  {seen[-1].heap / 1e6:6.2f} MB  {seen[-1].nodes:6.0f} nodes  "
                      f"{seen[-1].listeners:5.0f} listeners  {refreshes} refreshes", highlight=False)  # fmt: skip
    await page.close()
    nodes, listeners = (grow([getattr(one, name) for one in seen]) for name in ("nodes", "listeners"))
    return {
        "heap_growth": grow([one.heap for one in seen]),
        "node_growth": max(nodes, listeners),
        "refreshes": refreshes,
    }


def grow(values: Sequence[float]) -> float:
    """The last third over the first third, medians."""
    third = max(1, len(values) // 3)
    return statistics.median(values[-third:]) / statistics.median(values[:third])


async def set_script(stack: Stack, engine: str, script: Script) -> None:
    reply = await stack.http.post(f"{engine}/script", json=script.model_dump())
    reply.raise_for_status()


async def run(minutes: float) -> Figures:
    """Both parts."""
    if CHROMIUM is None:
        sys.exit("No Chromium: install Debian's package `chromium`.")
    spec = {"sampling": {"trajectories": SIBLINGS}, "protocol": {"max_turns": 3}}
    async with run_engine() as engine, run_stack(engine, 64, pinned=False) as stack, async_playwright() as playwright:
        base = str(stack.http.base_url).rstrip("/")
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        await set_script(stack, engine, Script(tokens=16))
        done: JobStatus = await stack.run_job(make_problems(PROBLEMS), name="ten thousand", **spec)
        console.print(f"A job of {done.rollouts[0].trajectories} trajectories is there.")
        figures = await measure_paint(browser, f"{base}/jobs/{done.id}")
        if minutes:
            await set_script(stack, engine, Script(tokens=16, seconds=64 / LIVE_TURNS_S))
            problems = make_problems(int(60 * (minutes + 2) * LIVE_TURNS_S / SIBLINGS))
            watched = await submit(stack, problems, name="watched", **spec)
            figures |= await measure_leak(browser, f"{base}/jobs/{watched}", minutes)
            await stack.http.delete(f"/v1/jobs/{watched}")
        await browser.close()
    return figures


async def submit(stack: Stack, problems: Sequence[Problem], **spec: object) -> str:
    """A job that nobody waits for."""
    path = stack.data_root / "watched.jsonl"
    path.write_text("\n".join(one.model_dump_json() for one in problems))
    reply = await stack.http.post("/v1/jobs", json={"dataset": {"path": path.name}, **spec})
    return reply.raise_for_status().json()["id"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the page stays open; 0 leaves it out")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = asyncio.run(run(arguments.minutes))
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
