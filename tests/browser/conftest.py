"""A real headless Chromium before a real rollout service; skipped where no Chromium is installed."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright

from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings
from tests.fakes.engine import Serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = Path(".drift/screenshots")
QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For one module alone: Playwright holds a running event loop, which no asynchronous test could start beside."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: install Debian's package `chromium` to run the browser tests")
    expect.set_options(timeout=30_000)  # its own 5 s are a page's second look at a busy machine
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET), timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture
def served(settings: RolloutSettings) -> Iterator[httpx.Client]:
    """The API of a running service."""
    with Serving(create_app(settings)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def page(browser: Browser, served: httpx.Client, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page on the service. Whatever runs that should not, fails the test; a screenshot of its end is kept."""
    faults: list[str] = []

    def refuse(dialog: Dialog) -> None:
        faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page = browser.new_page(base_url=str(served.base_url), viewport={"width": 1280, "height": 900})
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", refuse)
    page.set_default_timeout(60_000)
    yield page
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{request.node.name}.png", full_page=True)
    page.close()
    assert not faults


@pytest.fixture
def wait(served: httpx.Client) -> Callable[..., dict[str, Any]]:
    """Wait until a job's status holds; the status."""

    def until(job: str, holds: Callable[[dict[str, Any]], bool], deadline_s: float = 180) -> dict[str, Any]:
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            status = served.get(f"/v1/jobs/{job}").raise_for_status().json()
            if holds(status):
                return status
            time.sleep(0.05)
        raise TimeoutError(job)

    return until
