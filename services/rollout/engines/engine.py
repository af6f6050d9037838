"""One inference engine: a vLLM server spoken to over the OpenAI protocol.

Sampling is neutral: everything that could bend the distribution is sent explicitly, and no seed is
(a fixed one makes trajectories dependent, and kills vLLM's CPU build). Token ids are the engine's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from services.rollout.prompts import Message
from shared.errors import DriftError, Unavailable

NEUTRAL = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_CONTEXT_WORDS = ("context length", "max_model_len", "maximum model length", "longer than the maximum")


class Refused(DriftError):
    """The engine refuses the request, and would refuse its repetition."""


class ContextExceeded(Refused):
    """The context and the answer would not fit the model's length."""


class EngineDown(Unavailable):
    """The engine did not answer; the request may be repeated, here or elsewhere."""


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy."""

    temperature: float
    max_tokens: int


@dataclass(frozen=True)
class Answer:
    """One sampled answer with the token ids that the engine saw and made."""

    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str
    finish_reason: str


@dataclass(frozen=True)
class ServedModel:
    """What `/v1/models` says."""

    name: str
    root: str
    """Folder or hub name of the weights that the engine was started with."""


class Engine:
    """A client of one engine; `in_flight` counts this process's requests there."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self.in_flight = 0
        self.serving: str | None = None
        """Weights that the engine is known to serve; None while it is down or unknown."""
        self._client = client

    async def answer(self, model: str, messages: Sequence[Message], sampling: Sampling) -> Answer:
        """Sample one answer; raises `EngineDown` where repeating may help and `Refused` where it may not."""
        body = NEUTRAL | {
            "model": model,
            "messages": list(messages),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "return_token_ids": True,
        }
        self.in_flight += 1
        try:
            reply = await self._client.post(f"{self.url}/v1/chat/completions", json=body)
        except httpx.TransportError as error:
            self.serving = None
            raise EngineDown(f"The engine at {self.url} does not answer: {type(error).__name__}.") from error
        finally:
            self.in_flight -= 1
        if reply.status_code >= 500 or reply.status_code in (408, 429):
            if reply.status_code >= 500:
                self.serving = None  # Until it has been seen to be the same process in good health.
            raise EngineDown(f"The engine at {self.url} answers {reply.status_code}: {reply.text[:200]}")
        if reply.status_code >= 400:
            kind = ContextExceeded if any(words in reply.text for words in _CONTEXT_WORDS) else Refused
            raise kind(f"The engine at {self.url} refuses the request ({reply.status_code}): {reply.text[:500]}")
        return _read_answer(reply)

    async def healthy(self) -> bool:
        """Whether the engine answers its health check."""
        try:
            return (await self._client.get(f"{self.url}/health", timeout=5.0)).status_code == 200
        except httpx.TransportError:
            return False

    async def born(self) -> str | None:
        """The engine process's start time, from its metrics; tells a restarted engine from an old one."""
        try:
            text = (await self._client.get(f"{self.url}/metrics", timeout=5.0)).text
        except httpx.TransportError:
            return None
        return next(
            (line.split()[1] for line in text.splitlines() if line.startswith("process_start_time_seconds ")), None
        )

    async def served_model(self, name: str | None = None) -> ServedModel:
        """The model to ask for: `name`, or the first that is served."""
        try:
            reply = await self._client.get(f"{self.url}/v1/models", timeout=10.0)
            cards = reply.raise_for_status().json()["data"]
        except (httpx.HTTPError, KeyError, ValueError) as error:
            raise EngineDown(f"The engine at {self.url} does not list its models: {error!r}.") from error
        served = {card["id"]: ServedModel(card["id"], card.get("root") or card["id"]) for card in cards}
        if name is None and served:
            return next(iter(served.values()))
        if name is None or name not in served:
            raise Refused(
                f"The engine at {self.url} serves {', '.join(served) or 'nothing'}, not {name}.",
                remedy="Set DRIFT_ENGINE_MODEL to a served model.",
            )
        return served[name]

    async def load(self, weights: str) -> None:
        """Put the weights of a Hugging Face folder in place, without a restart, and drop the prefix cache."""
        await self._control("/pause", {})
        try:
            rpc = {"method": "reload_weights", "kwargs": {"weights_path": weights}}
            await self._control("/collective_rpc", rpc)
            await self._control("/reset_prefix_cache", {})
        finally:
            await self._control("/resume", {})

    async def _control(self, path: str, body: dict[str, object]) -> None:
        try:
            reply = await self._client.post(f"{self.url}{path}", json=body or None, timeout=600.0)
        except httpx.TransportError as error:
            raise EngineDown(f"The engine at {self.url} does not answer {path}: {type(error).__name__}.") from error
        if reply.status_code == 404:
            raise Refused(
                f"The engine at {self.url} has no {path}: it cannot take new weights.",
                remedy="Start vLLM with VLLM_SERVER_DEV_MODE=1, on a network that only this service reaches.",
            )
        if reply.status_code >= 400:
            raise EngineDown(f"The engine at {self.url} answers {path} with {reply.status_code}: {reply.text[:300]}")


def _read_answer(reply: httpx.Response) -> Answer:
    try:
        body = reply.json()
        choice = body["choices"][0]
        prompt, sampled = body["prompt_token_ids"], choice["token_ids"]
        text, finish_reason = choice["message"]["content"] or "", choice["finish_reason"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Refused(
            f"The engine's answer lacks {error}.", remedy="It must know `return_token_ids`: use vLLM 0.10.2 or later."
        ) from error
    if prompt is None or sampled is None:
        raise Refused("The engine returned no token ids.", remedy="Use an engine that honours `return_token_ids`.")
    return Answer(prompt, sampled, text, finish_reason or "stop")
