"""One vLLM server as its operator sees it: health, load, models, and putting weights or adapters in place.

The engine itself says which weights it serves: the label that vLLM keeps in the process that runs the model
(`/weight_info`), which is `default` again after a restart, and its list of LoRA adapters.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import aiohttp
import httpx
from pydantic import BaseModel, Field, ValidationError

from services.rollout.engines.engine import EngineDown, Refused
from services.rollout.engines.limit import Load

_LOST = (httpx.TransportError, aiohttp.ClientError)
"""The second is how the transport leaves an answer that is not HTTP."""
LOOK_S = 5.0
_SURVEY_S = 60.0
"""vLLM looks over its whole machine when it is first asked for its configuration."""
_LOAD_S = 600.0
_DEFAULT = "default"
"""vLLM's label for the weights that it was started with."""
_LOADING = "loading"
_METRIC = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|generation_tokens_total)\{[^}]*\} (\S+)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class ServedModel:
    """What an engine says of the model that it was started with."""

    name: str
    root: str
    """Folder or hub name of its weights."""
    context: int | None
    """Most tokens of prompt and answer together."""


@dataclass(frozen=True)
class Served:
    """What an engine serves now."""

    root: str
    """Folder or hub name of the weights that it was started with, and is back on after a restart."""
    name: str
    """What requests for full weights ask for."""
    weights: str | None
    """Folder or hub name of the full weights; None while they are being replaced."""
    adapters: dict[str, str] = field(default_factory=dict)
    """Name -> folder of each LoRA adapter."""


@dataclass(frozen=True)
class Configuration:
    """How an engine was started, as far as it touches the samples."""

    generation: str
    """Where sampling defaults come from: `vllm` is neutral; `auto` or a folder is a generation_config.json."""
    overrides: dict[str, object]
    """Sampling defaults set on the command line."""
    processors: list[str]
    """Logits processors that the engine applies to every request."""
    adapters: bool
    """Whether it takes LoRA adapters."""


B = TypeVar("B", bound=BaseModel)


class _Card(BaseModel):
    """One entry of `/v1/models`."""

    id: str
    root: str | None = None
    parent: str | None = None
    """The model beneath, for an adapter."""
    max_model_len: int | None = None


class _Cards(BaseModel):
    data: list[_Card]


class _Weights(BaseModel):
    """`/weight_info`."""

    weight_version: str


class _Model(BaseModel):
    generation_config: str
    override_generation_config: dict[str, object] | None = None
    logits_processors: list[object] | None = None


class _Config(BaseModel):
    model_config_: _Model = Field(alias="model_config")
    lora_config: object = None


class _Info(BaseModel):
    """`/server_info`."""

    vllm_config: _Config


ADAPTER_PREFIX = "drift-lora-"


def adapter_name(folder: str) -> str:
    """The name that a LoRA adapter's folder is served under; another folder never shares its prefix cache."""
    return ADAPTER_PREFIX + hashlib.blake2b(folder.encode(), digest_size=8).hexdigest()


class Control:
    """A client of one engine's control routes."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self.heard = time.monotonic()
        """When the engine last answered anything."""
        self._client = client

    async def healthy(self) -> bool:
        """Whether the engine answers its health check."""
        try:
            return (await self._get("/health")).status_code == 200
        except EngineDown:
            return False

    async def load(self) -> Load | None:
        """What is running and waiting there, for all its clients; None where the engine does not say."""
        try:
            text = (await self._get("/metrics")).text
        except EngineDown:
            return None
        sums: dict[str, float] = {}
        for name, value in _METRIC.findall(text):  # One line for each engine behind a data-parallel server.
            sums[name] = sums.get(name, 0.0) + float(value)
        if "num_requests_running" not in sums or "num_requests_waiting" not in sums:
            return None
        usage = sums.get("kv_cache_usage_perc", 0.0) / max(1, text.count("\nvllm:kv_cache_usage_perc{"))
        running, waiting = int(sums["num_requests_running"]), int(sums["num_requests_waiting"])
        return Load(running, waiting, usage, sums.get("generation_tokens_total", 0.0))

    async def served_model(self, name: str | None = None) -> ServedModel:
        """The model that the engine was started with: `name`, or the first that is served."""
        served = {
            card.id: ServedModel(card.id, card.root or card.id, card.max_model_len)
            for card in await self._cards()
            if card.parent is None
        }
        if name is None and served:
            return next(iter(served.values()))
        if name is None or name not in served:
            raise Refused(
                f"The engine at {self.url} serves {', '.join(served) or 'nothing'}, not {name}.",
                remedy="Set DRIFT_ENGINE_MODEL to a served model.",
            )
        return served[name]

    async def serves(self) -> Served:
        """What the engine serves now, in its own words."""
        cards = await self._cards()
        adapters = {card.id: card.root or "" for card in cards if card.parent is not None}
        root, name = next(((card.root or card.id, card.id) for card in cards if card.parent is None), ("", ""))
        reply = await self._get("/weight_info")
        label = self._read(_Weights, reply).weight_version if reply.is_success else _DEFAULT
        return Served(root, name, root if label == _DEFAULT else None if label == _LOADING else label, adapters)

    async def in_development(self) -> bool:
        """Whether the routes are there that put weights in place."""
        return (await self._get("/weight_info")).status_code != 404

    async def configuration(self) -> Configuration | None:
        """How the engine was started; None where it does not say: without development mode, or where the route fails,
        as vLLM's does in a container without pip."""
        reply = await self._get("/server_info", _SURVEY_S, config_format="json")
        if reply.status_code != 200:
            return None
        config = self._read(_Info, reply).vllm_config
        model = config.model_config_
        return Configuration(
            model.generation_config,
            model.override_generation_config or {},
            [str(processor) for processor in model.logits_processors or []],
            config.lora_config is not None,
        )

    async def load_weights(self, weights: str) -> None:
        """Put the weights of a Hugging Face folder in place, without a restart, and drop the prefix cache.

        The label is taken away first and written last: an engine that was given up half-way, and perhaps is paused
        still, never passes for a finished one.
        """
        await self._control("/update_weight_version", {"new_version": _LOADING})
        try:
            await self._control("/pause", {})  # What is in flight ends with `abort`, and is repeated.
            rpc = {"method": "reload_weights", "kwargs": {"weights_path": weights}}
            await self._control("/collective_rpc", rpc)
            await self._control("/reset_prefix_cache", {})
        finally:
            await self._control("/resume", {})
        await self._control("/update_weight_version", {"new_version": weights})

    async def load_adapter(self, folder: str) -> None:
        """Serve a LoRA adapter beside the full weights, under `adapter_name(folder)`."""
        remedy = (
            "Start vLLM with --enable-lora, a --max-lora-rank that fits, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
        )
        body = {"lora_name": adapter_name(folder), "lora_path": folder}
        try:
            await self._control("/v1/load_lora_adapter", body, remedy)
        except EngineDown as error:
            if await self.healthy():
                raise Refused(f"{error.message} It does not take the LoRA adapter {folder}.", remedy=remedy) from error
            raise

    async def drop_adapter(self, name: str) -> None:
        """Serve an adapter no longer."""
        await self._control("/v1/unload_lora_adapter", {"lora_name": name})

    async def _cards(self) -> list[_Card]:
        return self._read(_Cards, await self._get("/v1/models")).data

    def _read(self, schema: type[B], reply: httpx.Response) -> B:
        try:
            return schema.model_validate_json(reply.content)
        except ValidationError as error:
            said = f"{reply.status_code}: {reply.text[:200]}"
            raise EngineDown(f"{reply.url} of an engine answers what vLLM does not ({said}).") from error

    async def _get(self, path: str, timeout_s: float | None = None, **query: str) -> httpx.Response:
        try:
            reply = await self._client.get(f"{self.url}{path}", params=query, timeout=timeout_s or LOOK_S)
        except _LOST as error:
            raise EngineDown(f"The engine at {self.url} does not answer {path}: {type(error).__name__}.") from error
        self.heard = time.monotonic()
        return reply

    async def _control(self, path: str, body: Mapping[str, object], remedy: str | None = None) -> None:
        try:
            reply = await self._client.post(f"{self.url}{path}", json=body or None, timeout=_LOAD_S)
        except _LOST as error:
            raise EngineDown(f"The engine at {self.url} does not answer {path}: {type(error).__name__}.") from error
        if reply.status_code == 404:
            raise Refused(
                f"The engine at {self.url} cannot take new weights: it answers {path} with 404 ({reply.text[:200]}).",
                remedy=remedy or "Start vLLM with VLLM_SERVER_DEV_MODE=1, on a network that only this service reaches.",
            )
        if reply.status_code >= 400:
            raise EngineDown(f"The engine at {self.url} answers {path} with {reply.status_code}: {reply.text[:300]}")
