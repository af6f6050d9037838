"""The dashboard in a real browser: it is live, it is accessible, and nothing that a model writes runs in it."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from pydantic import SecretStr

from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings
from shared.grading import Verdict
from shared.shards import dataset_folder, write_shard
from shared.trajectory import Problem, Trajectory, Turn
from tests.fakes.engine import FakeEngine, Serving

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>{{ 7 * 7 }}"
PROBLEMS = [
    {"id": f"p{n}", "kind": "choice", "problem": f"Question {n}? {HOSTILE}", "answer": "B", "choices": ["x", HOSTILE]}
    for n in range(8)
]
TURN = Turn(
    prompt_token_ids=[1], token_ids=[2], text=f"B {HOSTILE}", finish_reason="stop", verdict=Verdict.CORRECT, answer="B"
)
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
    expect(page).to_have_title("succeeded demo · DRIFT")
    expect(page.locator("figure").filter(has_text="Solved within k turns").locator("canvas")).to_be_visible()
    assert_accessible(page)


def test_a_running_job_is_paused_resumed_and_cancelled_by_keyboard(
    page: Page, served: httpx.Client, engine: FakeEngine, wait: Wait
) -> None:
    engine.latency_s = 1.0
    job = submit(served, dataset={"problems": [{**PROBLEMS[0], "id": str(n)} for n in range(2000)]})
    wait(job, lambda status: status["state"] == "running")
    page.goto(f"/jobs/{job}")
    page.get_by_role("button", name="Pause").focus()
    with page.expect_response("**/status"):  # the panel is replaced; who is about to press it stays there
        pass
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    page.get_by_role("button", name="Pause").press("Enter")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert_accessible(page)
    page.get_by_role("button", name="Resume").press("Enter")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    served.delete(f"/v1/jobs/{job}")
    expect(page.locator(".badge").first).to_have_text("cancelled")


def test_a_failed_job_says_why(page: Page, served: httpx.Client, engine: FakeEngine, wait: Wait) -> None:
    engine.generation = "auto"  # an engine that applies the model's own sampling defaults is refused
    job = submit(served)
    status = wait(job, lambda status: status["state"] == "failed")
    page.goto(f"/jobs/{job}")
    expect(page.locator(".badge").first).to_have_text("failed")
    expect(page.locator("main")).to_contain_text(status["error"])
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
    page.get_by_role("link", name="New job like this").click()
    expect(page.get_by_label("Name")).to_have_value("my first job")
    expect(page.get_by_label("Pasted")).to_have_value(re.compile(r"6 \* 7\?.*\n.*1 \+ 1\?"))
    expect(page.locator("#preview")).to_contain_text("curl")


def test_trajectories_are_read_as_conversations_and_hostile_text_stays_text(
    page: Page, served: httpx.Client, engine: FakeEngine, wait: Wait
) -> None:
    engine.script = lambda messages, weights: f"B {HOSTILE}" if len(messages) > 3 else f"A {HOSTILE}"
    job = submit(served)
    wait(job, lambda status: status["state"] == "succeeded")
    page.goto(f"/jobs/{job}/trajectories")
    expect(page.locator("tbody tr")).to_have_count(32)
    assert_accessible(page)
    page.get_by_label("Ending").select_option("failed")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("main")).to_contain_text("No trajectory fits")
    page.goto(f"/jobs/{job}/groups/rollout-0/0")
    page.locator("summary").first.click()
    expect(page.locator(".turn pre").first).to_contain_text("<script>alert(1)</script>")
    expect(page.locator(".turn .badge").first).to_be_visible()
    assert_accessible(page)


def test_what_if_moves_the_weights_at_once(page: Page, served: httpx.Client, engine: FakeEngine, wait: Wait) -> None:
    engine.script = lambda messages, weights: "B" if len(engine.requests) % 3 == 0 else "A"
    job = submit(served)
    wait(job, lambda status: status["state"] == "succeeded")
    page.goto(f"/jobs/{job}")
    expect(page.locator("#what-if")).to_contain_text("32 of 32 trajectories carry weight")
    size = page.locator("#what-if tr").nth(1).inner_text()
    page.get_by_label("beta").fill("100")
    expect(page.locator("#what-if tr").nth(1)).not_to_have_text(size)
    expect(page.locator("#what-if tr").nth(1)).to_contain_text("4.00 (4.00)")  # nearly uniform: ESS is K
    assert_accessible(page)


def test_with_api_keys_a_browser_signs_in_once(browser: Browser, settings: RolloutSettings, engine: FakeEngine) -> None:
    keyed = settings.model_copy(update={"api_keys": (SecretStr("k;e y"),)})
    with Serving(create_app(keyed)) as url:
        page = browser.new_page(base_url=url)
        page.goto("/")
        expect(page).to_have_url(f"{url}/login")
        assert_accessible(page)
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not one of DRIFT_API_KEYS")
        page.get_by_label("API key").fill("k;e y")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("h1")).to_have_text("Jobs")
        page.goto("/new")
        page.get_by_label("Pasted").fill("problem,answer\n6 * 7?,42")
        page.get_by_role("button", name="Submit").click()
        page.wait_for_url(re.compile("/jobs/"))
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_url(f"{url}/login")
        page.goto("/")
        expect(page).to_have_url(f"{url}/login")
        page.close()


def test_another_site_cannot_make_a_browser_change_anything(served: httpx.Client, engine: FakeEngine) -> None:
    engine.latency_s = 5.0
    job = submit(served)
    for path in (f"/v1/jobs/{job}/pause", "/new"):
        assert served.post(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    page = served.get("/", headers={"Accept": "text/html"})
    assert (
        "script-src" in page.headers["content-security-policy"]
        or "default-src 'self'" in (page.headers["content-security-policy"])
    )


def test_unknown_pages_and_jobs_are_told_apart_from_empty_ones(page: Page) -> None:
    for path in ("/jobs/20260101-000000-abcdef", "/nothing"):
        answer = page.goto(path)
        assert answer is not None and answer.status == 404
        expect(page.get_by_role("alert")).to_be_visible()
        assert_accessible(page)


def test_a_job_with_ten_thousand_trajectories_opens_and_is_read(
    page: Page, served: httpx.Client, settings: RolloutSettings, wait: Wait
) -> None:
    job = submit(served, dataset={"problems": PROBLEMS[:1]}, sampling={"trajectories": 1})
    wait(job, lambda status: status["state"] == "succeeded")
    many = [
        Trajectory(
            job=job, phase="rollout", stage=0, policy="base", group=group, k=k, group_size=8,
            problem=Problem.model_validate(PROBLEMS[0]), turns=[TURN] * (1 + k % 5),
            ending="solved" if k % 3 else "max_turns", engine="e", model="m",
        )
        for group in range(1, 1251) for k in range(8)
    ]  # fmt: skip
    write_shard(dataset_folder(settings.runs_root, job, "rollout-0"), many)
    page.goto(f"/jobs/{job}")
    expect(page.locator("#what-if")).to_contain_text("10001 of 10001")
    page.goto(f"/jobs/{job}/trajectories?part=rollout-0")
    for _ in range(3):
        page.get_by_role("link", name="Next page").click()
    expect(page.locator("tbody tr")).to_have_count(50)
