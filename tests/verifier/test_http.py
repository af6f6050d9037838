"""The service over HTTP: its own contract, the drop-in contracts, and its limits."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from pydantic import SecretStr

from services.verifier.app import create_app
from services.verifier.settings import VerifierSettings
from shared.errors import DriftError, Unavailable
from shared.grading import MAX_BATCH, MAX_TEXT, Verdict, VerifyItem, VerifyRequest
from shared.verifier_client import BlockingVerifierClient, VerifierClient
from tests.fakes.engine import Serving

ENDLESS = VerifyItem(
    id="endless",
    response=r"\boxed{3\int \sin(x)^{\cos x} \ln(\tan x) dx}",
    answer=r"2\int \cos(x)^{\sin x} dx",
    deadline_ms=700,
)
KEY = "secret-of-the-test"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A verifier with a small queue, a small body limit and a key."""
    settings = VerifierSettings(
        verifier_workers=2,
        verifier_queue=4,
        verifier_max_body_mb=1,
        verifier_deadline_ms=30_000,
        api_keys=(SecretStr(KEY),),
    )
    with Serving(create_app(settings)) as address:
        yield address


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30) as client:
        yield client


async def test_results_keep_the_items_order_and_ids(url: str) -> None:
    items = [
        VerifyItem(id=f"item {place}", response=rf"\boxed{{{place}}}", answer="7") for place in range(MAX_BATCH + 20)
    ]
    items[3] = VerifyItem(id="item 3", response=r"\boxed{\lim_{x\to 0} \frac{\sin x}{x}}", answer="1")
    async with VerifierClient(url, KEY) as client:
        results = await client.verify(items[: MAX_BATCH + 20])
    assert [result.id for result in results] == [item.id for item in items]
    assert [result.id for result in results if result.verdict == Verdict.CORRECT] == ["item 3", "item 7"]
    assert results[3].method == "symbolic"


def test_duplicates_are_graded_once(http: httpx.Client) -> None:
    item = {"response": r"\boxed{\int_0^3 t^2 dt}", "answer": "9"}
    reply = http.post("/v1/verify", json={"items": [{"id": str(place), **item} for place in range(6)]}).json()
    assert {result["verdict"] for result in reply["results"]} == {"correct"}
    again = http.post("/v1/verify", json={"id": "again", **item}).json()
    assert again["cached"] is True
    metrics = http.get("/metrics").text
    hits = next(line for line in metrics.splitlines() if line.startswith("drift_verifier_cache_hits_total"))
    assert float(hits.split()[-1]) >= 6


def test_one_item_is_answered_by_one_result(http: httpx.Client) -> None:
    result = http.post(
        "/v1/verify",
        json={"id": "one", "kind": "choice", "response": "The answer is (B).", "answer": "B", "letters": "ABCD"},
    ).json()
    assert (result["id"], result["verdict"], result["method"], result["extracted"]) == ("one", "correct", "choice", "B")


async def test_a_hostile_item_times_out_alone(url: str) -> None:
    async with VerifierClient(url, KEY) as client:
        results = await client.verify([ENDLESS, VerifyItem(id="plain", response="5", answer="5")])
    assert [result.verdict for result in results] == [Verdict.TIMEOUT, Verdict.CORRECT]
    assert results[0].detail is not None


async def test_a_full_queue_is_refused_with_429_and_retry_after_and_the_client_tries_again(url: str) -> None:
    async with (
        VerifierClient(url, KEY) as client,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {KEY}"}) as http,
    ):
        # Another one than before: that one's timeout may be remembered.
        endless = ENDLESS.model_copy(update={"response": ENDLESS.response.replace("3", "5"), "deadline_ms": 2_000})
        running = asyncio.create_task(client.verify([endless]))
        batch = {"items": [{"id": str(place), "response": "5", "answer": "5"} for place in range(5)]}
        reply = await http.post("/v1/verify", json=batch)
        while reply.status_code == 200 and not running.done():
            reply = await http.post("/v1/verify", json=batch)
        assert reply.status_code == 429
        assert int(reply.headers["Retry-After"]) >= 1
        assert reply.json()["remedy"]
        results = await client.verify([VerifyItem(id=str(place), response="5", answer="5") for place in range(5)])
        assert {result.verdict for result in results} == {Verdict.CORRECT}
        await running


def test_every_example_of_the_documentation_is_graded(http: httpx.Client) -> None:
    seen = 0
    for path, operations in http.get("/openapi.json").json()["paths"].items():
        body = operations.get("post", {}).get("requestBody")
        for example in body["content"]["application/json"]["examples"].values() if body else ():
            assert http.post(path, json=example["value"]).status_code == 200
            seen += 1
    assert seen >= 5


def test_limits_and_keys(url: str, http: httpx.Client) -> None:
    assert httpx.post(f"{url}/v1/verify", json={}).status_code == 401
    assert http.post("/v1/verify", json={"id": "big", "response": "x" * (1 << 20), "answer": "5"}).status_code == 413
    reply = http.post("/v1/verify", json={"id": "typo", "respond": "5", "answer": "5"})
    assert reply.status_code == 422
    assert "response" in reply.json()["detail"]
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ready"}


def test_openrlhf_gets_rewards_for_whole_sequences(http: httpx.Client) -> None:
    prompt = "<|im_start|>user\nWhat is 1+1? Put it in \\boxed{0}.<|im_end|>\n<|im_start|>assistant\n"
    reply = http.post(
        "/get_reward",
        json={
            "query": [
                prompt + r"\boxed{2}<|im_end|>",
                prompt + r"\boxed{3}<|im_end|>",
                prompt + "I cannot answer this question.<|im_end|>",
            ],
            "prompts": [prompt, "other text, as a tokenizer may leave it", prompt],
            "labels": ["2", "2", "2"],
        },
    ).json()
    assert reply["rewards"] == reply["scores"] == [1.0, 0.0, 0.0]
    assert reply["extra_logs"] == {
        "correct": [1.0, 0.0, 0.0],
        "unparsable": [0.0, 0.0, 1.0],
        "ungraded": [0.0, 0.0, 0.0],
    }
    assert http.post("/get_reward", json={"query": ["1"], "labels": []}).status_code == 422


def test_slime_gets_a_number(http: httpx.Client) -> None:
    assert http.post("/get_reward", json={"prompt": "1+1?", "response": r"\boxed{2}", "label": "2"}).json() == 1
    assert http.post("/get_reward?kind=choice", json={"prompt": "?", "response": "(B)", "label": "C"}).json() == 0


def test_nemo_gym_gets_its_request_back_with_a_reward(http: httpx.Client) -> None:
    output = [
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": r"\boxed{2}"}]},
    ]
    body = {
        "responses_create_params": {"input": []},
        "response": {"output": output},
        "expected_answer": "2",
        "uuid": "a",
    }
    reply = http.post("/verify", json=body).json()
    assert (reply["reward"], reply["extracted_answer"], reply["verdict"], reply["uuid"]) == (1.0, "2", "correct", "a")


def test_the_blocking_client_grades_too(url: str) -> None:
    with BlockingVerifierClient(url, KEY) as client:
        client.wait_until_ready(5)
        assert client.verify([VerifyItem(id="1", response="0.5", answer="1/2")])[0].verdict == Verdict.CORRECT


async def test_the_client_retries_what_passes_and_nothing_else() -> None:
    statuses = [503, 429, 200]

    def answer(_request: httpx.Request) -> httpx.Response:
        status = statuses.pop(0)
        return httpx.Response(status, json={"results": [{"id": "1", "verdict": "correct", "ms": 0.1}]})

    item = VerifyItem(id="1", response="5", answer="5")
    async with VerifierClient("http://verifier", transport=httpx.MockTransport(answer)) as client:
        assert (await client.verify([item]))[0].verdict == Verdict.CORRECT
        statuses.append(500)
        with pytest.raises(DriftError, match="500"):
            await client.verify([item])
        statuses.append(200)
        with pytest.raises(DriftError, match="do not match"):
            await client.verify([VerifyItem(id="another", response="5", answer="5")])
    statuses += [429, 502, 503, 504]
    async with VerifierClient("http://verifier", attempts=1, transport=httpx.MockTransport(answer)) as client:
        while statuses:
            with pytest.raises(Unavailable):
                await client.verify([item])


async def test_no_request_is_larger_than_a_verifier_takes_by_default() -> None:
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sizes.append(len(request.content))
        ids = [item.id for item in VerifyRequest.model_validate_json(request.content).items]
        return httpx.Response(200, json={"results": [{"id": id, "verdict": "correct", "ms": 0.1} for id in ids]})

    # A control character is six bytes of JSON.
    items = [VerifyItem(id=str(place), response="\x01" * MAX_TEXT, answer="5") for place in range(24)]
    async with VerifierClient("http://verifier", transport=httpx.MockTransport(answer)) as client:
        results = await client.verify(items)
    assert [result.id for result in results] == [item.id for item in items]
    most = VerifierSettings.model_fields["verifier_max_body_mb"].default << 20
    assert max(sizes) < most < sum(sizes)


async def test_an_answer_of_something_else_is_named() -> None:
    page = httpx.MockTransport(lambda _: httpx.Response(200, html="<html>sign in</html>"))
    async with VerifierClient("http://verifier", transport=page) as client:
        with pytest.raises(DriftError, match=r"sign in.*Is a verifier of this version"):
            await client.verify([VerifyItem(id="1", response="1", answer="1")])
