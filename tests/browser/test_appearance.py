"""Every page on a desk and on a phone, in light and in dark: nothing sticks out, axe is content, a picture is kept."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from redis import Redis

from services.rollout.settings import RolloutSettings
from shared import keys
from shared.status import JobStatus
from shared.training import TrainingState, TrainingStatus
from tests.browser.conftest import SCREENSHOTS
from tests.browser.test_dashboard import PROBLEMS, assert_accessible, submit
from tests.fakes.engine import FakeEngine

pytestmark = pytest.mark.browser
Scheme = Literal["light", "dark"]


@pytest.fixture
def trained(served: httpx.Client, settings: RolloutSettings, engine: FakeEngine, wait: Callable[..., Any]) -> str:
    """A job with a training and an evaluation before and after, as a trainer leaves it."""
    engine.latency_s, engine.slots = 0.2, 8  # so few at once that a job of some hundred problems stays at it
    engine.script = lambda messages, weights: ("B", "A", "no idea")[len(engine.requests) % 3]
    job = submit(served, evaluate=[{"problems": PROBLEMS}])
    wait(job, lambda status: status["state"] == "succeeded")
    with Redis(unix_socket_path=settings.redis_url.removeprefix("unix://")) as redis:
        status = JobStatus.model_validate_json(redis.get(keys.status(job)))  # pyright: ignore[reportArgumentType]
        base = status.evaluations[0]
        better = [0.5 + share / 2 for share in base.multi_at]
        after = base.model_copy(
            update={"policy": "stage-1", "stage": 1, "multi_at": better, "correction_rate": 0.706,
                    "interval": [[share - 0.08, min(1, share + 0.08)] for share in better]}
        )  # fmt: skip
        training = TrainingStatus(
            state=TrainingState.SUCCEEDED, stage=0, step=32, steps=32, loss=0.41, grad_norm=0.72, tokens_per_s=2100,
            losses=[1.2 / (1 + step / 9) for step in range(32)], trajectories=32, skipped=18, skipped_mass=3e-5,
            effective_sample_size=2.4, composition=status.rollouts[0].composition,
        )  # fmt: skip
        later = status.rollouts[0].model_copy(update={"stage": 1, "policy": "stage-1"})
        update = {
            "evaluations": [base, after],
            "rollouts": [*status.rollouts, later],
            "trainings": [training],
            "checkpoint": "/runs/x/stage-0/export",
        }
        redis.set(keys.status(job), status.model_copy(update=update).model_dump_json())
    log = settings.runs_root / job / "checkpoints" / "stage-0" / "train.jsonl"
    log.parent.mkdir(parents=True)
    lines = [{"step": n + 1, "grad_norm": 1 + n % 3, "nll": 2 - n / 40, "tokens_per_s": 2000 + n} for n in range(32)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 33, "grad')
    return job


VIEWS: list[tuple[str, int, Scheme]] = [
    ("desk", 1280, "light"),
    ("phone", 390, "light"),
    ("desk", 1280, "dark"),
    ("phone", 390, "dark"),
]


@dataclass(frozen=True)
class View:
    """A page in one size and one scheme."""

    page: Page
    name: str

    def keep(self, name: str) -> None:
        """Nothing sticks out of the page; keep its picture."""
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}-{self.name}.png", full_page=True)
        assert wide == 0
        assert_accessible(self.page)


@pytest.fixture
def views(browser: Browser, served: httpx.Client) -> Iterator[list[View]]:
    pages = [
        (browser.new_page(base_url=str(served.base_url), viewport={"width": wide, "height": 900}, color_scheme=scheme),
         f"{scheme}-{room}")
        for room, wide, scheme in VIEWS
    ]  # fmt: skip
    for page, _ in pages:
        page.set_default_timeout(60_000)
    yield [View(page, name) for page, name in pages]
    for page, _ in pages:
        page.close()


def test_every_page_fits(
    views: list[View], served: httpx.Client, engine: FakeEngine, trained: str, wait: Callable[..., Any]
) -> None:
    engine.latency_s = 1.0
    running = submit(served, dataset={"problems": [{**PROBLEMS[0], "id": str(n)} for n in range(300)]})
    wait(running, lambda status: (status["progress"] or {}).get("done", 0) > 0)
    for view in views:
        visit(view, running, trained)
    served.delete(f"/v1/jobs/{running}")


def visit(view: View, running: str, trained: str) -> None:
    page = view.page
    page.goto("/")
    expect(page.locator("tbody tr")).to_have_count(2)
    view.keep("jobs")
    page.goto(f"/jobs/{running}")
    expect(page.locator("main")).to_contain_text("healthy")
    page.locator("[data-gallery] canvas").first.wait_for()
    view.keep("running")
    page.goto(f"/jobs/{trained}")
    page.locator("#what-if-charts canvas").nth(2).wait_for()
    expect(page.locator(".tiles")).to_contain_text("from ")
    expect(page.locator("figure").filter(has_text="Gradient norm").locator(".legend")).to_contain_text("stage 0 2")
    view.keep("trained")
    page.goto(f"/jobs/{trained}/trajectories")
    view.keep("trajectories")
    page.goto(f"/jobs/{trained}/groups/rollout-0/0")
    page.locator("summary").first.click()
    view.keep("group")
    page.goto(f"/new?like={trained}")
    expect(page.locator("#preview")).to_contain_text("curl")
    view.keep("form")
    page.goto(f"/compare?job={trained}")
    page.locator("[data-gallery] canvas").first.wait_for()
    view.keep("compare")
