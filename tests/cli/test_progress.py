"""Following a job: by its events, over connections that break, to its last status."""

from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
from fastapi import FastAPI, Header, Response
from fastapi.responses import StreamingResponse
from rich.console import Console

from cli.client import JobClient
from cli.progress import NEWEST, JobProgress, follow
from services.rollout.settings import RolloutSettings
from shared.errors import Unavailable
from shared.status import JobStatus, Progress, State
from tests.fakes.engine import FakeEngine, Serving
from tests.rollout.client import PROBLEMS, submit

JOB = "20260101-000000-abcdef"


def status(done: int, state: State = State.RUNNING) -> JobStatus:
    progress = Progress(phase="rollout", label="roll out", done=done, total=3, unit="trajectories")
    return JobStatus(id=JOB, name="x", state=state, created=0, progress=progress)


class Breaking:
    """A service whose event stream breaks after each event; it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.app = FastAPI()
        self.app.get("/v1/jobs/{job}")(self.show)
        self.app.get("/v1/jobs/{job}/events")(self.list_events)

    async def show(self) -> JobStatus:
        return status(3, State.SUCCEEDED) if self.asked[-1:] == ["3-0"] else status(0)

    async def list_events(self, last_event_id: str = Header()) -> Response:
        self.asked.append(last_event_id)
        place = 0 if last_event_id == NEWEST else int(last_event_id.split("-")[0])

        async def tell() -> AsyncIterator[str]:
            if place == 3:
                yield "event: end\ndata: {}\n\n"
                return
            yield f": still there\n\nid: {place + 1}-0\nevent: status\ndata: {status(place + 1).model_dump_json()}\n\n"
            raise ConnectionError("scripted fault")

        return StreamingResponse(tell(), media_type="text/event-stream")


class Seen(JobProgress):
    """Remembers what it would show."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True), shown=False)
        self.done: list[int] = []

    def update(self, status: JobStatus) -> None:
        assert status.progress
        self.done.append(status.progress.done)


@pytest.fixture
def breaking() -> Iterator[tuple[Breaking, str]]:
    service = Breaking()
    with Serving(service.app) as url:
        yield service, url


async def test_a_broken_connection_goes_on_after_the_last_event(breaking: tuple[Breaking, str]) -> None:
    service, url = breaking
    seen = Seen()
    async with JobClient.open(url) as jobs:
        ended = await follow(jobs, JOB, seen)
    assert ended.state is State.SUCCEEDED
    assert service.asked == [NEWEST, "1-0", "2-0", "3-0"]
    assert sorted(seen.done) == seen.done and set(seen.done) == {0, 1, 2, 3}


async def test_a_service_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.progress.SILENCE_S", 0.0)
    monkeypatch.setattr("cli.progress.PAUSE_S", 0.0)
    answer: Callable[[httpx.Request], httpx.Response] = lambda request: (  # noqa: E731
        httpx.Response(200, json=status(0).model_dump(mode="json")) if request.url.path.endswith(JOB) else _vanish()
    )
    transport = httpx.MockTransport(answer)
    with pytest.raises(Unavailable, match="does not answer"):
        await follow(JobClient(httpx.AsyncClient(base_url="http://x", transport=transport)), JOB, Seen())


def _vanish() -> httpx.Response:
    raise httpx.ConnectError("scripted fault")


async def test_a_real_job_is_followed_to_its_last_status(
    settings: RolloutSettings, engine: FakeEngine, service: httpx.AsyncClient
) -> None:
    engine.latency_s = 0.1
    job = await submit(service, evaluate=[{"problems": PROBLEMS}])
    async with JobClient.open(str(service.base_url)) as jobs:
        with JobProgress(Console(quiet=True)) as shown:
            ended = await follow(jobs, job, shown)
        assert ended == await jobs.get(job)
    assert ended.state is State.SUCCEEDED


def test_a_phase_is_called_as_its_file_is() -> None:
    console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: SIM115
    running = Progress(phase="rollout", label="roll out sets[/a].jsonl", done=3, total=3, unit="trajectories")
    with JobProgress(console) as shown:
        shown.update(status(0).model_copy(update={"progress": running}))
        shown.update(status(3, State.SUCCEEDED))
    assert "roll out sets[/a].jsonl: 3 trajectories" in console.export_text()
