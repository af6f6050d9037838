"""Who gets in, how often, how much at once, and what the log says of it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from cli.ports import choose_free
from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings
from services.verifier.app import create_app as create_verifier
from services.verifier.settings import VerifierSettings
from shared.errors import SettingsError
from shared.rate import RateLimit
from shared.settings import check_exposure
from shared.web import key_id
from tests.fakes.engine import FakeEngine, Serving

KEY, OTHER = "a-key-of-the-test", "another-key-of-the-test"
TOKEN = {"Authorization": f"Bearer {KEY}"}
JSON = TOKEN | {"Content-Type": "application/json"}
ITEM = {"id": "1", "kind": "math", "response": r"\boxed{1}", "answer": "1"}


@pytest.fixture
def guarded(settings: RolloutSettings) -> RolloutSettings:
    """A rollout service with two keys, tight limits, and nothing else changed."""
    keys = (SecretStr(KEY), SecretStr(OTHER))
    return settings.model_copy(update={"api_keys": keys, "rollout_rate": 5.0, "max_body_bytes": 4096})


@pytest.fixture
async def rollout(guarded: RolloutSettings) -> AsyncIterator[httpx.AsyncClient]:
    with Serving(create_app(guarded)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield client


@pytest.fixture(scope="module")
def verifier() -> Iterator[httpx.Client]:
    settings = VerifierSettings(api_keys=(SecretStr(KEY),), verifier_max_body_mb=1, verifier_workers=1)
    with Serving(create_verifier(settings)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


WRONG = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}, {"Authorization": KEY},
         {"Authorization": "Bearer"}, {"Authorization": f"Bearer {KEY} {KEY}"}, {"Authorization": b"Bearer \xff\xfe"},
         {"Authorization": f"Bearer {KEY}x"}, {"Cookie": "drift_key=%%%"}]  # fmt: skip


async def test_without_the_right_token_no_route_answers(rollout: httpx.AsyncClient) -> None:
    routes = [
        ("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nothing"),
        ("DELETE", "/v1/jobs/20250101-000000-abcdef"), ("GET", "/v1/jobs/20250101-000000-abcdef/events"),
        ("GET", "//v1/jobs"), ("GET", "/health/../v1/jobs"), ("GET", "/static/../v1/jobs"), ("HEAD", "/v1/jobs"),
    ]  # fmt: skip
    for headers, (method, path) in product(WRONG, routes):
        reply = await rollout.request(method, path, headers=headers)
        assert reply.status_code == 401, (headers, method, path)
        assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_the_verifier_lets_nobody_in_without_the_right_token(verifier: httpx.Client) -> None:
    for headers, path in product(WRONG, ("/v1/verify", "/get_reward", "/verify", "/docs")):
        assert verifier.post(path, json=ITEM, headers=headers).status_code == 401
    assert verifier.post("/v1/verify", json=ITEM, headers=TOKEN).json()["verdict"] == "correct"


async def test_a_key_that_asks_too_often_waits_and_the_others_do_not(rollout: httpx.AsyncClient) -> None:
    replies = await asyncio.gather(*(rollout.get("/v1/jobs", headers=TOKEN) for _ in range(30)))
    refused = [reply for reply in replies if reply.status_code == 429]
    assert refused
    assert {reply.status_code for reply in replies} == {200, 429}
    assert all(int(reply.headers["Retry-After"]) >= 1 for reply in refused)
    assert (await rollout.get("/v1/jobs", headers={"Authorization": f"Bearer {OTHER}"})).status_code == 200
    assert (await rollout.get("/health")).status_code == 200
    metrics = (await rollout.get("/metrics")).text
    assert f'drift_http_refusals_total{{reason="rate"}} {len(refused)}.0' in metrics


def test_the_rate_is_kept_exactly() -> None:
    limit, now = RateLimit(8.0), 1024.0  # all of these times are exact in binary
    assert [limit.take("a", now) > 0 for _ in range(17)] == [False] * 16 + [True]
    assert limit.take("a", now) == 0.125
    assert limit.take("b", now) == 0
    assert limit.take("a", now + 0.0625) == 0.0625
    assert limit.take("a", now + 0.125) == 0
    assert limit.take("a", now + 0.125) == 0.125
    let_in = sum(limit.take("a", now + 0.125 + step / 1024) == 0 for step in range(1, 10 * 1024 + 1))
    assert let_in == 80, "ten seconds at eight a second"
    slow = RateLimit(0.125)
    assert (slow.take("a", now), slow.take("a", now)) == (0, 8.0)


async def test_a_large_body_is_refused_with_and_without_its_length(rollout: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 1024

    for body in (b" " * 65_536, chunks()):
        for path in ("/v1/jobs", "/login"):
            reply = await rollout.post(path, content=b" " * 65_536 if path == "/login" else body, headers=TOKEN)
            assert reply.status_code == 413, path
            assert reply.headers["content-type"] == "application/problem+json"


MALFORMED = [
    b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"{}" * 2, b'{"items": 1}', b"[" * 3000, b'{"name": ' * 400,
    b'{"dataset": {"problems": "x"}}', b'{"name": "\\ud800", "dataset": {"path": "\\u0000"}}', b"1e999999",
]  # fmt: skip


def test_malformed_bodies_are_refused_by_the_verifier(verifier: httpx.Client) -> None:
    for body, path in product(MALFORMED, ("/v1/verify", "/get_reward", "/verify")):
        reply = verifier.post(path, content=body, headers=JSON)
        assert reply.status_code in (400, 422), (path, body)
        assert reply.headers["content-type"] == "application/problem+json"


def test_gold_answers_that_are_none_are_refused_and_a_strangers_field_is_not_mistaken(verifier: httpx.Client) -> None:
    for path, body in [
        ("/get_reward", {"prompt": "", "response": "", "label": []}),
        ("/get_reward", {"query": ["x"], "prompts": [], "labels": [[]]}),
        ("/verify", {"expected_answer": [], "response": {"output": []}}),
        ("/verify", {"expected_answer": "1", "options": [], "response": {"output": []}}),
        ("/verify", {"expected_answer": "1", "response": {"output": [{"content": [{"text": "x" * 200_000}] * 2}]}}),
    ]:
        reply = verifier.post(path, json=body, headers=TOKEN)
        assert reply.status_code == 422, (path, reply.text)
    body = {"expected_answer": "1", "response": {"output": [{"content": r"\boxed{1}"}]}, "reward": 7, "verdict": "x"}
    assert verifier.post("/verify", json=body, headers=TOKEN).json()["reward"] == 1


async def test_malformed_bodies_are_refused_by_the_rollout_service(service: httpx.AsyncClient) -> None:
    for body in MALFORMED:
        reply = await service.post("/v1/jobs", content=body, headers=JSON)
        assert reply.status_code in (400, 422), body
        assert reply.headers["content-type"] == "application/problem+json"


async def test_a_sign_in_that_is_no_text_is_refused(rollout: httpx.AsyncClient) -> None:
    assert (await rollout.post("/login", content=b"key=%ff\xff\xfe")).status_code == 401


async def test_a_cookie_that_is_no_key_is_none(rollout: httpx.AsyncClient) -> None:
    reply = await rollout.get("/v1/jobs", headers={b"Cookie": b'drift_key="\xe9"'})
    assert reply.status_code == 401


async def test_a_form_that_is_no_text_is_refused(service: httpx.AsyncClient) -> None:
    for body in (b"name=\xff", b"&".join(b"a%d=1" % number for number in range(200))):
        reply = await service.post("/new/preview", content=body)
        assert (reply.status_code, "not the form" in reply.text) == (200, True)


@contextmanager
def process(settings: RolloutSettings, log: Path) -> Iterator[str]:
    """URL of a rollout service in a process of its own, which ends with the context."""
    [port] = choose_free({"port": 0}).values()
    environment = {
        "DRIFT_REDIS_URL": settings.redis_url,
        "DRIFT_VERIFIER_URL": settings.verifier_url,
        "DRIFT_DATA_ROOT": str(settings.data_root),
        "DRIFT_RUNS_ROOT": str(settings.runs_root),
        "DRIFT_ENGINE_URLS": settings.engine_urls[0],
        "DRIFT_ROLLOUT_PORT": str(port),
        "DRIFT_API_KEYS": f"{KEY},{OTHER}",
    }
    command = [sys.executable, "-m", "services.rollout"]
    with log.open("wb") as file, subprocess.Popen(command, env=os.environ | environment, stderr=file) as child:
        try:
            wait_for_http(f"http://127.0.0.1:{port}/ready")
            yield f"http://127.0.0.1:{port}"
        finally:
            child.terminate()


def wait_for_http(url: str) -> None:
    for attempt in Retrying(
        stop=stop_after_delay(60), wait=wait_fixed(0.1), retry=retry_if_exception_type(httpx.HTTPError)
    ):
        with attempt:
            httpx.get(url).raise_for_status()


def test_the_log_tells_who_submitted_what_and_never_the_key(
    settings: RolloutSettings, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.latency_s = 3600  # the job is there to be cancelled
    problem = {"id": "p", "kind": "choice", "problem": "?", "answer": "B", "choices": ["x", "y"]}
    spec = {"name": "audited", "dataset": {"problems": [problem]}}
    with process(settings, tmp_path / "log") as url, httpx.Client(base_url=url, timeout=60) as client:
        job = client.post("/v1/jobs", json=spec, headers=TOKEN).raise_for_status().json()["id"]
        client.delete(f"/v1/jobs/{job}", headers={"Authorization": f"Bearer {OTHER}"})
        client.post("/v1/jobs", json=spec, headers={"Authorization": "Bearer a-guess"})
        client.get("/v1/jobs", headers=TOKEN)
    written = (tmp_path / "log").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    [submitted] = [line for line in lines if line["event"] == "job_submitted"]
    assert (submitted["job"], submitted["name"], submitted["key"]) == (job, "audited", key_id(KEY.encode()))
    assert [(line["method"], line["status"], line["key"]) for line in lines if line["event"] == "request"] == [
        ("POST", 202, key_id(KEY.encode())),
        ("DELETE", 202, key_id(OTHER.encode())),
    ]
    [refused] = [line for line in lines if line["event"] == "request_refused"]
    assert (refused["reason"], refused["key"], refused["client"]) == ("token", "none", "127.0.0.1")
    assert not any(secret in written for secret in (KEY, OTHER, "a-guess"))


@pytest.mark.parametrize(
    ("host", "published", "keys", "allowed"),
    [
        ("127.0.0.1", None, False, True),
        ("localhost", None, False, True),
        ("0.0.0.0", None, False, False),
        ("0.0.0.0", None, True, True),
        ("0.0.0.0", "127.0.0.1", False, True),
        ("0.0.0.0", "0.0.0.0", False, False),
        ("127.0.0.1", "192.0.2.7", False, False),
        ("0.0.0.0", "", False, False),
        ("0.0.0.0", "0.0.0.0", True, True),
    ],
)
def test_a_service_is_open_to_others_only_with_keys(
    host: str, published: str | None, keys: bool, allowed: bool
) -> None:
    settings = VerifierSettings(api_keys=(SecretStr(KEY),) if keys else (), publish_address=published)
    if allowed:
        check_exposure(host, "DRIFT_VERIFIER_HOST", settings)
    else:
        with pytest.raises(SettingsError, match="DRIFT_API_KEYS"):
            check_exposure(host, "DRIFT_VERIFIER_HOST", settings)
