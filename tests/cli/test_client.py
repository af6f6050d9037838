"""The command line towards the service: what is sent, and what a refusal looks like to the user."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from cli.client import ApiError, JobClient, Unanswered
from cli.ports import is_free
from shared.errors import Unavailable
from shared.job import DatasetSpec, JobSpec
from shared.status import State

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler) -> JobClient:
    return JobClient(httpx.AsyncClient(base_url="http://service", transport=httpx.MockTransport(handler)))


async def test_a_submitted_job_is_what_the_spec_says_without_its_defaults() -> None:
    sent: list[object] = []

    def handler(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/v1/jobs")
        sent.append(json.loads(request.content))
        return httpx.Response(202, json={"id": "j1", "state": "queued"})

    spec = JobSpec(name="mine", dataset=DatasetSpec(path="a.jsonl", limit=3))
    assert await client(handler).submit(spec) == "j1"
    assert sent == [{"name": "mine", "dataset": {"path": "a.jsonl", "limit": 3}}]


async def test_a_submission_without_an_answer_names_the_key_that_repeats_it_without_doubling_it() -> None:
    keys: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        raise httpx.ReadTimeout("the rows are still being checked")

    for key in (None, None, "mine"):
        with pytest.raises(Unanswered, match="may be queued") as silence:
            await client(handler).submit_json("{}", key)
        assert f"--key {keys[-1]}`" in str(silence.value)
    assert len(set(keys)) == 3 and keys[-1] == "mine"


async def test_a_submission_that_was_never_sent_names_no_key() -> None:
    async with JobClient.open("http://127.0.0.1:1") as jobs:
        with pytest.raises(Unavailable, match=r"127.0.0.1:1.*drift up"):
            await jobs.submit_json("{}")


async def test_the_token_is_sent() -> None:
    async with JobClient.open("http://127.0.0.1:1", "secret") as jobs:
        assert jobs._http.headers["Authorization"] == "Bearer secret"


async def test_jobs_are_asked_for_by_number_and_state() -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url.query, "ascii"))
        return httpx.Response(200, json={"jobs": [], "next": None})

    await client(handler).list()
    await client(handler).list(5, State.RUNNING)
    assert asked == ["limit=100", "limit=5&state=running"]


async def test_a_refusal_carries_the_services_detail_and_remedy() -> None:
    problem = {
        "type": "about:blank",
        "title": "x",
        "status": 404,
        "detail": "No job j2.",
        "remedy": "See `drift jobs`.",
    }
    with pytest.raises(ApiError) as refusal:
        await client(lambda _: httpx.Response(404, json=problem)).get("j2")
    assert str(refusal.value) == "No job j2. See `drift jobs`."
    assert refusal.value.status == 404


async def test_an_answer_that_is_no_problem_document_is_shown_as_it_is() -> None:
    with pytest.raises(ApiError, match=r"502 Bad Gateway: <html>"):
        await client(lambda _: httpx.Response(502, text="<html>proxy</html>")).list()
    with pytest.raises(ApiError, match=r"520 .*<html>"):  # no status of the standard
        await client(lambda _: httpx.Response(520, text="<html>proxy</html>")).list()


async def test_a_page_or_a_redirection_in_place_of_an_answer_is_named() -> None:
    def sign_in(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, html="<html>sign in</html>")

    with pytest.raises(ApiError, match=r"sign in.*Is a rollout service"):
        await client(sign_in).list()
    with pytest.raises(ApiError, match="sign in"):
        [piece async for piece in client(sign_in).export("j1", "jsonl", None)]
    with pytest.raises(ApiError, match="307 Temporary Redirect"):
        await client(lambda _: httpx.Response(307, headers={"Location": "/v1/jobs"})).get("")


async def test_an_id_is_never_more_than_one_part_of_the_path() -> None:
    asked: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path)
        return httpx.Response(404, json={"detail": "There is no such job."})

    with pytest.raises(ApiError):
        await client(handler).cancel("a/../b?c#d")
    assert asked == [b"/v1/jobs/a%2F..%2Fb%3Fc%23d"]


async def test_a_silent_service_is_named_with_a_remedy() -> None:
    async with JobClient.open("http://127.0.0.1:1") as jobs:
        with pytest.raises(Unavailable, match=r"127.0.0.1:1.*drift up"):
            await jobs.list()


def drift(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The real command, in a folder without any stack."""
    import os

    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=180,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
    )  # fmt: skip


def test_commands_fail_with_one_clear_message(tmp_path: Path) -> None:
    port = next(port for port in range(20_000, 30_000) if is_free(port))
    silent = drift("jobs", cwd=tmp_path, DRIFT_ROLLOUT_PORT=str(port))
    assert silent.returncode == 1
    assert f"127.0.0.1:{port}" in silent.stderr
    assert "Traceback" not in silent.stderr
    wrong = drift("status", cwd=tmp_path, DRIFT_ROLLOUT_PORT="many")
    assert wrong.returncode == 2
    assert "DRIFT_ROLLOUT_PORT" in wrong.stderr
    missing = drift("submit", "none.json", cwd=tmp_path)
    assert missing.returncode == 2
    assert "none.json" in missing.stderr
    nothing = drift("status", "--json", cwd=tmp_path)
    assert (nothing.returncode, nothing.stdout.strip()) == (1, "null")
