"""The verifier's clients: results in the items' order, ids checked, retries on what passes by itself and nothing else.

A verdict is never invented: what cannot be graded raises `Unavailable`, and `timeout` and `error` come back as they
are.
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import httpx
from pydantic import ValidationError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
    wait_random_exponential,
)

from shared.errors import DriftError, Unavailable
from shared.grading import MAX_BATCH, VerifyItem, VerifyRequest, VerifyResponse, VerifyResult
from shared.tracing import outgoing_headers

PATH = "/v1/verify"
MAX_CHARACTERS = 4 << 20
"""Most characters of responses in one request.

At six bytes each, the longest that JSON makes of one, with room for the gold answers within a verifier's 32 MiB.
"""
RETRIED_STATUSES = (429, 502, 503, 504)
"""What a full or restarting verifier answers, or a proxy before it."""
ATTEMPTS = 6
TIMEOUT_SECONDS = 120.0
JSON = {"Content-Type": "application/json"}


class VerifierClient:
    """Asynchronous client of one verifier; use as an async context manager or call `aclose`.

    `timeout` bounds one request in seconds, `attempts` the tries of one request, `concurrency` the requests in flight.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        attempts: int = ATTEMPTS,
        concurrency: int = 16,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/"),
            timeout=timeout,
            transport=transport,
            headers=_headers(api_key),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )
        self._attempts = attempts
        self._places = asyncio.Semaphore(concurrency)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def verify(self, items: Sequence[VerifyItem]) -> list[VerifyResult]:
        """One result for each item, in order; any number of items.

        Raises `Unavailable` where the verifier cannot be reached within the attempts, `DriftError` where it refuses
        the request.
        """
        tasks = [asyncio.create_task(self._verify_batch(batch)) for batch in _batches(items)]
        try:
            return [result for results in await asyncio.gather(*tasks) for result in results]
        finally:
            for task in tasks:
                task.cancel()

    async def ready(self) -> bool:
        """Whether the verifier says that it is ready."""
        try:
            return (await self._http.get("/ready")).is_success
        except httpx.TransportError:
            return False

    async def _verify_batch(self, items: Sequence[VerifyItem]) -> list[VerifyResult]:
        body = _body(items)
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts), wait=_wait, retry=retry_if_exception(_is_passing), reraise=True
        )
        async with self._places:
            try:
                async for attempt in retrying:
                    with attempt:
                        reply = await self._http.post(PATH, content=body, headers=JSON | outgoing_headers())
                        results = _results(reply, items)
                        del reply.stream
                        return results
            except httpx.HTTPError as error:
                raise _failure(error, str(self._http.base_url)) from None
            finally:
                # The reply's stream and these refer back to what holds them: seventy objects a request that nothing
                # but the garbage collector would find, whose search stops every episode.
                retrying.iter_state.reset()
        raise AssertionError("unreachable: the retry loop returns or raises")


class BlockingVerifierClient:
    """The same for programs without an event loop; use as a context manager or call `close`."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        attempts: int = ATTEMPTS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.address = base_url.rstrip("/")
        self._http = httpx.Client(
            base_url=base_url.rstrip("/"), timeout=timeout, transport=transport, headers=_headers(api_key)
        )
        self._attempts = attempts

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def wait_until_ready(self, timeout: float) -> None:
        """Return once the verifier is ready; raises `Unavailable` after `timeout` seconds."""
        retrying = Retrying(
            stop=stop_after_delay(timeout), wait=wait_fixed(0.1), retry=retry_if_exception(_is_passing), reraise=True
        )
        try:
            retrying(lambda: self._http.get("/ready").raise_for_status())
        except httpx.HTTPError as error:
            raise _failure(error, str(self._http.base_url)) from None

    def verify(self, items: Sequence[VerifyItem]) -> list[VerifyResult]:
        """As `VerifierClient.verify`, batch after batch."""
        return [result for batch in _batches(items) for result in self._verify_batch(batch)]

    def _verify_batch(self, items: Sequence[VerifyItem]) -> list[VerifyResult]:
        retrying = Retrying(
            stop=stop_after_attempt(self._attempts), wait=_wait, retry=retry_if_exception(_is_passing), reraise=True
        )
        try:
            return retrying(lambda: _results(self._http.post(PATH, content=_body(items), headers=JSON), items))
        except httpx.HTTPError as error:
            raise _failure(error, str(self._http.base_url)) from None


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _batches(items: Sequence[VerifyItem]) -> list[list[VerifyItem]]:
    batches: list[list[VerifyItem]] = []
    characters = 0
    for item in items:
        characters += len(item.response)
        if not batches or len(batches[-1]) == MAX_BATCH or characters > MAX_CHARACTERS:
            batches.append([])
            characters = len(item.response)
        batches[-1].append(item)
    return batches


def _body(items: Sequence[VerifyItem]) -> str:
    return VerifyRequest(items=list(items)).model_dump_json(exclude_none=True)


def _results(reply: httpx.Response, items: Sequence[VerifyItem]) -> list[VerifyResult]:
    """The results of a reply, one for each item; raises `httpx.HTTPStatusError` or `DriftError`."""
    content = reply.raise_for_status().content
    try:
        results = VerifyResponse.model_validate_json(content).results
    except ValidationError:
        raise DriftError(
            f"{reply.url} answers with something else than verdicts: {reply.text[:300]}",
            remedy="Is a verifier of this version at that address?",
        ) from None
    if [result.id for result in results] != [item.id for item in items]:
        raise DriftError(
            "The verifier's results do not match the items by id and order.",
            remedy="Is a verifier of this version at that address?",
        )
    return results


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in RETRIED_STATUSES
    return isinstance(error, httpx.TransportError)


_backoff = wait_random_exponential(multiplier=0.2, max=10)


def _wait(state: RetryCallState) -> float:
    """What the server asks for in Retry-After, else a random exponential pause; seconds."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, httpx.HTTPStatusError) else ""
    return max(_backoff(state), min(float(asked), 30.0) if asked.isdigit() else 0.0)


def _failure(error: httpx.HTTPError, base_url: str) -> DriftError:
    if isinstance(error, httpx.HTTPStatusError):
        kind = Unavailable if error.response.status_code in RETRIED_STATUSES else DriftError
        return kind(f"The verifier answered {error.response.status_code}: {error.response.text[:500]}")
    return Unavailable(
        f"The verifier at {base_url} cannot be reached: {error!r}.", remedy="Is `python -m services.verifier` running?"
    )
