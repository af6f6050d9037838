"""The rollout service's API for the command line: typed answers, and errors that carry the service's remedy."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urlencode

import httpx
from pydantic import ValidationError

from shared.errors import DriftError, Unavailable
from shared.job import JobSpec
from shared.outcomes import PartOutcomes
from shared.schema import Schema
from shared.status import JobStatus, State

TIMEOUT_S = 60.0
WORDLESS_S = 45.0
"""An event stream says something every fifteen seconds; one that is silent for longer has broken."""


class ApiError(DriftError):
    """The service refused the request; carries its status and remedy."""

    def __init__(self, status: int, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


class Unanswered(Unavailable):
    """A request was sent and no answer came: what it asks for may be done all the same."""


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    id: str
    """To go on after; empty where the event has none."""
    kind: str
    """`status`, `training`, at last `end`; `alive` where nothing happens for a while."""
    data: str


class _Accepted(Schema):
    id: str
    state: str


class _JobList(Schema, extra="ignore"):
    jobs: list[JobStatus]


class JobClient:
    """Submits, follows and cancels jobs; use as `async with JobClient.open(url) as jobs`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, api_key: str | None = None) -> AsyncIterator[Self]:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S) as http:
            yield cls(http)

    async def submit(self, spec: JobSpec, idempotency_key: str | None = None) -> str:
        """Submit a job; its id."""
        return await self.submit_json(spec.model_dump_json(exclude_defaults=True), idempotency_key)

    async def submit_json(self, body: str | bytes, idempotency_key: str | None = None) -> str:
        """Submit a job written as JSON, which the service checks; its id.

        Every row at hand is checked before the answer, which can take longer than anybody waits: without a key one is
        made up, and `Unanswered` names it.
        """
        key = idempotency_key or secrets.token_hex(8)
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        try:
            reply = await self._ask("POST", "/v1/jobs", content=body, headers=headers)
        except Unanswered as error:
            remedy = f"The job may be queued all the same; `drift submit --key {key}` submits it without doubling it."
            raise Unanswered(error.message, remedy=remedy) from None
        return _Accepted.model_validate_json(reply.content).id

    async def list(self, limit: int = 100, state: State | None = None) -> list[JobStatus]:
        """The newest jobs, or the newest in one state, the newest first."""
        asked = urlencode({"limit": limit} | ({"state": state} if state else {}))
        return _JobList.model_validate_json((await self._ask("GET", f"/v1/jobs?{asked}")).content).jobs

    async def get(self, job: str) -> JobStatus:
        """One job."""
        return JobStatus.model_validate_json(await self.get_json(job))

    async def get_json(self, job: str) -> bytes:
        """One job, exactly as the service gives it."""
        return (await self._ask("GET", _path(job))).content

    async def cancel(self, job: str) -> None:
        """Ask the service to cancel a job."""
        await self.command("DELETE", job)

    async def command(self, method: str, job: str, route: str = "") -> bytes:
        """Cancel, pause or resume a job; the service's answer."""
        return (await self._ask(method, f"{_path(job)}{route}")).content

    async def spec(self, job: str) -> JobSpec:
        """What a job was asked to do."""
        return JobSpec.model_validate_json((await self._ask("GET", f"{_path(job)}/spec")).content)

    async def outcomes(self, job: str, part: str) -> PartOutcomes:
        """What became of each trajectory of a part."""
        reply = await self._ask("GET", f"{_path(job)}/outcomes?{urlencode({'part': part})}")
        return PartOutcomes.model_validate_json(reply.content)

    async def weights(self, job: str, asked: Mapping[str, str | float]) -> bytes:
        """The weights of a job's rollouts under other constants, as the service gives them."""
        return (await self._ask("GET", f"{_path(job)}/weights?{urlencode(asked)}")).content

    async def presets(self) -> bytes:
        """The problem sets that a job can name, as the service gives them."""
        return (await self._ask("GET", "/v1/presets")).content

    async def report(self, job: str) -> bytes:
        """A job's report with its figures, zipped."""
        return (await self._ask("GET", f"{_path(job)}/report?format=zip")).content

    async def export(self, job: str, format: str, part: str | None) -> AsyncIterator[bytes]:
        """A job's trajectories, piece by piece."""
        asked = urlencode({"format": format} | ({"part": part} if part else {}))
        async with self._stream(f"{_path(job)}/export?{asked}") as reply:
            async for piece in reply.aiter_bytes():
                yield piece

    async def events(self, job: str, after: str) -> AsyncIterator[Event]:
        """What happens to a job after the event `after`, until the connection ends or breaks (`Unavailable`)."""
        fields: dict[str, str] = {}
        async with self._stream(f"{_path(job)}/events", {"Last-Event-ID": after}, read_s=WORDLESS_S) as reply:
            async for line in reply.aiter_lines():
                name, _, value = line.partition(":")
                if line:
                    fields[name] = value.removeprefix(" ")
                elif fields:
                    yield Event(fields.get("id", ""), fields.get("event", "alive"), fields.get("data", ""))
                    fields = {}

    @asynccontextmanager
    async def _stream(
        self, path: str, headers: dict[str, str] | None = None, *, read_s: float = TIMEOUT_S
    ) -> AsyncIterator[httpx.Response]:
        try:
            timeout = httpx.Timeout(TIMEOUT_S, read=read_s)
            async with self._http.stream("GET", path, headers=headers, timeout=timeout) as reply:
                if not _is_answer(reply):
                    await reply.aread()
                    raise _read_problem(reply)
                yield reply
        except httpx.TransportError as error:
            raise self._silent(error) from None

    async def _ask(
        self, method: str, path: str, *, content: str | bytes | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        try:
            reply = await self._http.request(method, path, content=content, headers=headers)
        except httpx.TransportError as error:
            raise self._silent(error) from None
        if not _is_answer(reply):
            raise _read_problem(reply)
        return reply

    def _silent(self, error: httpx.TransportError) -> Unavailable:
        kind = Unavailable if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else Unanswered
        return kind(
            f"The rollout service at {self._http.base_url} does not answer ({type(error).__name__}).",
            remedy="Start it with `drift up`, or name it with DRIFT_ROLLOUT_PORT or --url.",
        )


def _path(job: str) -> str:
    return f"/v1/jobs/{quote(job, safe='')}"


def _is_answer(reply: httpx.Response) -> bool:
    """Whether the service did what was asked; a redirection or a web page says that it is another one."""
    return reply.is_success and not reply.headers.get("Content-Type", "").startswith("text/html")


class _Problem(Schema, extra="ignore"):
    """RFC 9457 problem details with this project's `remedy`."""

    detail: str
    remedy: str | None = None


def _read_problem(reply: httpx.Response) -> ApiError:
    try:
        problem = _Problem.model_validate_json(reply.content)
    except ValidationError:
        said = f"{reply.url} answers {reply.status_code} {reply.reason_phrase}: {reply.text[:300]}"
        return ApiError(reply.status_code, said, remedy="Is a rollout service of this version there?")
    return ApiError(reply.status_code, problem.detail, remedy=problem.remedy)
