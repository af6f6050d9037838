"""What the engines are asked before a job generates a token: is the model there, is sampling neutral, is there room,
and does the model's chat template take the messages that the job will send?

Every parameter of the sampling is sent with each request. What an engine can still do by itself is cut answers short
(a `max_new_tokens` of its generation configuration) and bend the distribution with logits processors of its own.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from services.rollout.engines.control import Configuration, Control, ServedModel
from services.rollout.engines.engine import Engine, EngineDown, Refused, Sampling
from services.rollout.engines.pool import Engines
from services.rollout.prompts import Roles

Loading = Literal["nothing", "weights", "adapters"]
"""What a job will put into the engines: full weights, or LoRA adapters."""

PROBE = [{"role": "user", "content": "Count to ten."}]
PROBE_S = 120.0
"""Longest wait for a probe: it may have to queue behind what others ask; and a second more for each token."""


async def inspect(
    engines: Engines, name: str | None, max_tokens: int, loading: Loading, openings: Iterable[Roles] = (("user",),)
) -> ServedModel:
    """The model that all engines serve.

    Raises `Refused` when an engine that answers is not fit for a job with answers of `max_tokens` that will load such
    policies and open its episodes with one of `openings`, and `EngineDown` when none answers: then it may be asked
    again.
    """
    found: list[tuple[Control, ServedModel]] = []
    away: EngineDown | None = None
    for engine in engines.members:
        silent = False
        try:
            for control in engines.controls(engine):
                model = await control.served_model(name)
                _check_room(control.url, model, max_tokens)
                configuration = await check_neutral(control)
                await _check_loading(control, configuration, loading)
                silent |= configuration is None
                found.append((control, model))
            for roles in openings:
                await probe(engine, found[-1][1].name, roles, max_tokens if silent else 1)
        except EngineDown as error:
            away = error
    if not found:
        raise away or EngineDown("No engine is set.", remedy="Set DRIFT_ENGINE_URLS.")
    _check_agreement(found)
    return found[0][1]


async def check_neutral(control: Control) -> Configuration | None:
    """How the engine was started: so that it adds nothing to a request; None when it does not say. Raises `Refused`."""
    configuration = await control.configuration()
    if configuration and (complaint := complain(configuration)):
        raise Refused(
            f"The engine at {control.url} bends the sampling by itself: {complaint}.",
            remedy="Start vLLM with `--generation-config vllm`, without `--override-generation-config` and"
            " `--logits-processors`.",
        )
    return configuration


def complain(configuration: Configuration) -> str | None:
    """What is not neutral about an engine."""
    if configuration.generation != "vllm":
        return f"its defaults come from the model's generation_config.json (`{configuration.generation}`)"
    if configuration.overrides:
        return f"its defaults are overridden with {configuration.overrides}"
    if configuration.processors:
        return f"it applies the logits processors {', '.join(configuration.processors)}"
    return None


def _check_room(url: str, model: ServedModel, max_tokens: int) -> None:
    if model.context is not None and max_tokens >= model.context:
        raise Refused(
            f"sampling.max_tokens {max_tokens} leaves no room for a prompt: the engine at {url} has a context of"
            f" {model.context} tokens.",
            remedy="Ask for fewer tokens, or start vLLM with a longer --max-model-len.",
        )


async def _check_loading(control: Control, configuration: Configuration | None, loading: Loading) -> None:
    """Better now than after the training whose policy cannot be loaded."""
    if loading == "weights" and configuration is None and not await control.in_development():
        raise Refused(
            f"The engine at {control.url} cannot take new weights, which this job will need: it has no development"
            " mode.",
            remedy="Start vLLM with VLLM_SERVER_DEV_MODE=1, on a network that only this service reaches.",
        )
    if loading == "adapters" and configuration is not None and not configuration.adapters:
        raise Refused(
            f"The engine at {control.url} takes no LoRA adapters, which this job will need.",
            remedy="Start vLLM with --enable-lora, a --max-lora-rank that fits, and"
            " VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; or set `train.lora.merge`.",
        )


def _check_agreement(found: Sequence[tuple[Control, ServedModel]]) -> None:
    first, model = found[0]
    for control, other in found[1:]:
        if other != model:
            raise Refused(
                f"The engines do not serve the same model: {first.url} says {model}, {control.url} says {other}.",
                remedy="Start all engines with the same model, --served-model-name and --max-model-len.",
            )


async def probe(engine: Engine, model: str, roles: Roles = ("user",), tokens: int = 1) -> None:
    """One answer as a job asks for it: with token ids, and of the length that was asked for."""
    messages = [PROBE[0] | {"role": role} for role in roles]
    try:
        answer = await engine.answer(model, messages, Sampling(0.0, tokens, ignore_eos=True), within_s=PROBE_S + tokens)
    except Refused as error:
        said = " and ".join(roles)
        remedy = f"The model's chat template must take what `protocol.template` opens with, messages of {said}."
        raise Refused(error.message, remedy=error.remedy or f"{remedy} `plain` has no system message.") from error
    if len(answer.token_ids) != tokens:
        raise Refused(
            f"The engine at {engine.url} cuts answers short by itself, at {len(answer.token_ids)} tokens of {tokens}.",
            remedy="Start vLLM with `--generation-config vllm` and without `--override-generation-config`.",
        )
