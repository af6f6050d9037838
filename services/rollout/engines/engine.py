"""One inference engine as requests see it: a vLLM server, or a router before several, over the OpenAI protocol.

Sampling is neutral: everything that could bend the distribution is sent explicitly, and no seed is
(a fixed one makes trajectories dependent, and kills vLLM's CPU build). Token ids are the engine's own.
"""

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp
import orjson

from services.rollout.engines.breaker import Breaker, Circuit
from services.rollout.engines.limit import Limit
from services.rollout.prompts import Message
from shared.errors import DriftError, Unavailable
from shared.tracing import outgoing_headers, span

NEUTRAL = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
AFFINITY_HEADER = "x-session-id"
"""What vLLM's router keeps together with `--policy consistent_hash`; an engine itself does not look at it."""
_CONTEXT_WORDS = (
    *("context length", "max_model_len", "maximum model length", "longer than the maximum"),
    "max_tokens must be at least 1, got 0",  # a prompt that fills the context to its last token
)


class Refused(DriftError):
    """The engine refuses the request, and would refuse its repetition."""


class ContextExceeded(Refused):
    """The context does not fit the model's length."""


class EngineDown(Unavailable):
    """The engine did not answer; the request may be repeated, here or elsewhere."""


class Interrupted(EngineDown):
    """The engine is well, but gave up this request: it was given another policy, or has no room."""


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy."""

    temperature: float
    max_tokens: int
    ignore_eos: bool = False
    """Sample on until `max_tokens`: how to learn whether an engine cuts answers short by itself."""


@dataclass(frozen=True)
class Answer:
    """One sampled answer with the token ids that the engine saw and made.

    Arrays hold them in a ninth of a list's memory, and the garbage collector has nothing to look through.
    """

    prompt_token_ids: "array[int]"
    token_ids: "array[int]"
    text: str
    finish_reason: str
    """`stop`, or `length` at the job's limit or the context's end."""


class Engine:
    """A client of one engine, and what is known of it.

    `session` gives the connections: aiohttp's, since under a thousand requests in flight httpx's own layer costs
    more than all the rest of a turn.
    """

    def __init__(self, url: str, session: Callable[[], aiohttp.ClientSession], limit: Limit) -> None:
        self.url = url
        self.limit = limit
        self.breaker = Breaker(time.monotonic)
        self.serving: str | None = None
        """Weights that the engine is known to serve; None while it is down or unknown."""
        self.confirmed = float("-inf")
        """When it last said so (`time.monotonic`)."""
        self.doubted = asyncio.Event()
        """Set when a request has failed: whoever watches the engine looks at once."""
        self.most_in_flight = 0
        """Most requests in flight since the engine was last looked at."""
        self.progressed = float("-inf")
        """When it was first sent what it has now, or has since been seen to work at it (`time.monotonic`)."""
        self._waits: set[asyncio.Timeout] = set()
        self._session = session

    @property
    def in_flight(self) -> int:
        """Requests of this process there."""
        return len(self._waits)

    @property
    def places(self) -> int:
        """How many more requests it may be sent now."""
        return self.limit.value - self.in_flight if self.breaker.state is Circuit.CLOSED else 0

    async def answer(
        self,
        model: str,
        messages: Sequence[Message],
        sampling: Sampling,
        group: int = 0,
        within_s: float | None = None,
    ) -> Answer:
        """Sample one answer, however long it takes, unless `within_s` seconds are given or somebody calls `hang_up`.

        Raises `EngineDown` where repeating may help and `Refused` where it may not.
        """
        wait = asyncio.timeout(within_s)
        if not self._waits:
            self.progressed = time.monotonic()
        self._waits.add(wait)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answer = await self._ask(model, messages, sampling, group, wait)
        except Refused:
            self.breaker.succeed()
            raise
        except EngineDown as error:
            if isinstance(error, Interrupted):
                self.breaker.succeed()
            else:
                self.breaker.fail()
            self.serving = None  # Until it has been seen to serve this policy: it may be another process by then.
            self.doubted.set()
            raise
        finally:
            self._waits.discard(wait)
        self.breaker.succeed()
        self.progressed = time.monotonic()
        return answer

    def hang_up(self) -> None:
        """Wait no longer for what it was sent, which is repeated, and send it nothing until it has answered a probe."""
        self.breaker.open()
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(asyncio.get_running_loop().time())

    async def _ask(
        self, model: str, messages: Sequence[Message], sampling: Sampling, group: int, wait: asyncio.Timeout
    ) -> Answer:
        body = NEUTRAL | {
            "model": model,
            "messages": list(messages),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "ignore_eos": sampling.ignore_eos,
            "return_token_ids": True,
        }
        headers = {"Content-Type": "application/json", AFFINITY_HEADER: str(group)}
        try:
            with span("sample", engine=self.url):
                headers |= outgoing_headers()
                url = f"{self.url}/v1/chat/completions"
                sent = self._session().post(url, data=orjson.dumps(body), headers=headers, allow_redirects=False)
                async with wait, sent as reply:
                    content, status = await reply.read(), reply.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineDown(f"The engine at {self.url} does not answer: {type(error).__name__}.") from error
        if status != 200:
            raise _read_refusal(self.url, status, content.decode(errors="replace"))
        return _read_answer(self.url, content)


def _read_refusal(url: str, status: int, text: str) -> DriftError:
    said = f"{status}: {text[:500]}"
    if status in (408, 429):
        return Interrupted(f"The engine at {url} has no room: {said}")
    if status >= 500 or status == 404:
        # The model was there when the job began: an engine that does not know it has been restarted since.
        return EngineDown(f"The engine at {url} answers {said}")
    kind = ContextExceeded if any(words in text for words in _CONTEXT_WORDS) else Refused
    return kind(f"The engine at {url} refuses the request ({said})")


def _read_answer(url: str, content: bytes) -> Answer:
    try:
        body = orjson.loads(content)
        choice = body["choices"][0]
        prompt, sampled = body["prompt_token_ids"], choice["token_ids"]
        text, finish_reason = choice["message"]["content"] or "", choice["finish_reason"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Refused(
            f"The answer of the engine at {url} lacks {error}.",
            remedy="It must know `return_token_ids`: use vLLM 0.10.2 or later.",
        ) from error
    if prompt is None or sampled is None:
        raise Refused(
            f"The engine at {url} returned no token ids.", remedy="Use an engine that honours `return_token_ids`."
        )
    if finish_reason not in ("stop", "length"):
        # vLLM answers 200 with `abort` and the tokens so far when it is paused for new weights.
        raise Interrupted(f"The engine at {url} ended an answer with {finish_reason!r}.")
    if not isinstance(text, str):
        raise Refused(f"The engine at {url} returned an answer that is no text, but {type(text).__name__}.")
    try:
        answer = Answer(array("i", prompt), array("i", sampled), text, finish_reason)
        if min(min(ids, default=0) for ids in (answer.prompt_token_ids, answer.token_ids)) < 0:
            raise OverflowError("one is negative")
        return answer
    except (TypeError, OverflowError) as error:
        raise Refused(f"The engine at {url} returned token ids that are none: {error}.") from error
