"""The verifier's client: results in the items' order, ids checked, retries on transport errors, 429 and 503 only.

A verdict is never invented: what cannot be graded raises `Unavailable`, and `timeout` and `error` come back as they are.
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from shared.errors import DriftError, Unavailable
from shared.grading import MAX_BATCH, VerifyItem, VerifyRequest, VerifyResponse, VerifyResult

RETRIED_STATUSES = (429, 503)


class VerifierClient:
    """Asynchronous client of one verifier; use as an async context manager or call `aclose`.

    `timeout` bounds one request in seconds, `attempts` the tries of one request, `concurrency` the requests in flight.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout: float = 120.0, attempts: int = 6,
                 concurrency: int = 16, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=base_url.rstrip("/"), timeout=timeout, transport=transport,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )
        self._attempts = attempts
        self._places = asyncio.Semaphore(concurrency)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def verify(self, items: Sequence[VerifyItem]) -> list[VerifyResult]:
        """One result for each item, in order; any number of items.

        Raises `Unavailable` where the verifier cannot be reached within the attempts, `DriftError` where it refuses the request.
        """
        batches = [items[start : start + MAX_BATCH] for start in range(0, len(items), MAX_BATCH)]
        tasks = [asyncio.create_task(self._verify_batch(batch)) for batch in batches]
        try:
            return [result for results in await asyncio.gather(*tasks) for result in results]
        finally:
            for task in tasks:
                task.cancel()

    async def ready(self) -> bool:
        """Whether the verifier says that it is ready."""
        try:
            return (await self._client.get("/ready")).is_success
        except httpx.TransportError:
            return False

    async def _verify_batch(self, items: Sequence[VerifyItem]) -> list[VerifyResult]:
        body = VerifyRequest(items=list(items)).model_dump_json(exclude_none=True)
        async with self._places:
            response = await self._post(body)
        results = VerifyResponse.model_validate_json(response.content).results
        if [result.id for result in results] != [item.id for item in items]:
            raise DriftError("The verifier's results do not match the items by id and order.", remedy="Check DRIFT_VERIFIER_URL.")
        return results

    async def _post(self, body: str) -> httpx.Response:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts), wait=_wait, retry=retry_if_exception(_is_passing), reraise=True
        )
        try:
            async for attempt in retrying:
                with attempt:
                    response = await self._client.post("/v1/verify", content=body, headers={"Content-Type": "application/json"})
                    return response.raise_for_status()
        except httpx.HTTPStatusError as error:
            kind = Unavailable if error.response.status_code in RETRIED_STATUSES else DriftError
            raise kind(f"The verifier answered {error.response.status_code}: {error.response.text[:500]}") from None
        except httpx.TransportError as error:
            raise Unavailable(
                f"The verifier at {self._client.base_url} cannot be reached: {error!r}.", remedy="Is `python -m services.verifier` running?"
            ) from None
        raise AssertionError("unreachable: the retry loop returns or raises")


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in RETRIED_STATUSES
    return isinstance(error, httpx.TransportError)


_backoff = wait_random_exponential(multiplier=0.2, max=10)


def _wait(state: RetryCallState) -> float:
    """What the server asks for in Retry-After, else a random exponential pause."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, httpx.HTTPStatusError) else ""
    return max(_backoff(state), min(float(asked), 30.0) if asked.isdigit() else 0.0)
