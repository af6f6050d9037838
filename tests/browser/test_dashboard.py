"""The dashboard in a real browser: it is live, it is accessible, and nothing that a model writes runs in it."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.fakes.engine import FakeEngine

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>{{ 7 * 7 }}"
PROBLEMS = [
    {"id": f"p{n}", "kind": "choice", "problem": f"Question {n}? {HOSTILE}", "answer": "B", "choices": ["x", HOSTILE]}
    for n in range(8)
]
pytestmark = pytest.mark.browser
Wait = Callable[..., dict[str, Any]]


def submit(served: httpx.Client, **changes: Any) -> str:
    spec = {"name": "demo", "dataset": {"problems": PROBLEMS}, "sampling": {"trajectories": 4}} | changes
    reply = served.post("/v1/jobs", json=spec)
    assert reply.status_code == 202, reply.text
    return reply.json()["id"]


def assert_accessible(page: Page) -> None:
    """axe finds nothing serious or critical."""
    violations = Axe().run(page).response["violations"]
    grave = [each for each in violations if each["impact"] in ("serious", "critical")]
    assert not grave, [(each["id"], [node["html"] for node in each["nodes"][:3]]) for each in grave]


@pytest.mark.parametrize("path", ["/", "/new", "/compare"])
def test_pages_without_any_job_say_what_to_do(page: Page, path: str) -> None:
    page.goto(path)
    expect(page.locator("h1")).to_be_visible()
    assert_accessible(page)


def test_a_job_page_is_live(page: Page, served: httpx.Client, engine: FakeEngine, wait: Wait) -> None:
    engine.latency_s = 0.2
    job = submit(served, evaluate=[{"problems": PROBLEMS}])
    page.goto(f"/jobs/{job}")
    expect(page.locator(".badge").first).to_have_text("succeeded", timeout=60_000)  # without a reload
    expect(page.locator("figure").filter(has_text="Solved within k turns").locator("canvas")).to_be_visible()
    assert_accessible(page)


def test_a_running_job_is_paused_resumed_and_cancelled_by_keyboard(
    page: Page, served: httpx.Client, engine: FakeEngine, wait: Wait
) -> None:
    engine.latency_s = 1.0
    job = submit(served, dataset={"problems": [{**PROBLEMS[0], "id": str(n)} for n in range(2000)]})
    wait(job, lambda status: status["state"] == "running")
    page.goto(f"/jobs/{job}")
    page.get_by_role("button", name="Pause").press("Enter")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert_accessible(page)
    page.get_by_role("button", name="Resume").press("Enter")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    served.delete(f"/v1/jobs/{job}")
    expect(page.locator(".badge").first).to_have_text("cancelled")


def test_a_failed_job_says_why(page: Page, served: httpx.Client, engine: FakeEngine, wait: Wait) -> None:
    engine.model = "another"
    job = submit(served)
    wait(job, lambda status: status["state"] in ("failed", "succeeded"))
    page.goto(f"/jobs/{job}")
    expect(page.locator(".badge").first).to_be_visible()
    assert_accessible(page)


def test_the_form_shows_the_api_s_own_message_and_submits(page: Page, served: httpx.Client) -> None:
    page.goto("/new")
    page.get_by_label("Pasted").fill('{"id": "1", "problem": "6 * 7?"}')
    refused = served.post("/v1/jobs", json={"dataset": {"problems": [{"id": "1", "problem": "6 * 7?"}]}}).json()
    assert "answer" in refused["detail"]
    expect(page.locator("#preview")).to_contain_text("field answer")
    page.get_by_label("Pasted").fill("problem,answer\n6 * 7?,42\n1 + 1?,2")
    expect(page.locator("#preview")).to_contain_text("curl")
    assert_accessible(page)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile("/jobs/"))
    expect(page.locator("h1")).to_contain_text("my first job")
