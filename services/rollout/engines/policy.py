"""Keeps every engine on the wanted policy, and its limit in step with its load: one watcher an engine.

A policy is a Hugging Face folder of full weights, or a LoRA adapter's folder over such weights. The conductor loads;
every replica uses an engine only while the engine itself says that it serves the wanted policy (`control.py`), so
that an engine that was restarted, and is back on the weights that it was started with, takes no request before
it has been given the policy again.
"""

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from services.rollout.engines.breaker import Circuit
from services.rollout.engines.control import ADAPTER_PREFIX, Control, Served, adapter_name
from services.rollout.engines.engine import Engine, EngineDown, Refused
from services.rollout.engines.inspection import check_neutral, probe
from services.rollout.engines.observation import EngineState, Looks, describe
from services.rollout.engines.pool import Engines
from shared.errors import DriftError
from shared.telemetry import get_logger

WATCH_S = 2.0
"""Between two looks at an engine's load, which it takes vLLM seven milliseconds to write down."""
CONFIRM_S = 5.0
"""An engine that was found serving the wanted policy is asked for no more than its load for so long: on one machine
with it every question costs tokens. One that goes away meanwhile says nothing, one started anew has sampled less."""
GONE_S = 30.0
"""An engine that has answered no look for so long will not answer what it was sent, either."""
log = get_logger(__name__)


def adapter_base(weights: str) -> str | None:
    """The full weights beneath a LoRA adapter's folder; None for a folder or hub name of full weights."""
    config = Path(weights) / "adapter_config.json"
    if not config.is_file():
        return None
    try:
        return str(json.loads(config.read_bytes())["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise DriftError(
            f"{config} does not name its base model: {error!r}.", remedy="Save the adapter with peft's save_pretrained."
        ) from error


def request_model(weights: str, model: str) -> str:
    """The name that requests for a policy ask for: the adapter's, or the engine's own."""
    return model if adapter_base(weights) is None else adapter_name(weights)


@dataclass(frozen=True)
class _Trouble:
    """What an engine said when it was asked for these weights."""

    weights: str | None
    at: float
    error: DriftError


class Policies:
    """Watches the engines of one replica."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self.conducting = False
        """Whether this replica may load weights."""
        self._troubles: dict[str, _Trouble] = {}
        """By engine, why it does not serve the wanted policy."""
        self._looks = {engine.url: Looks() for engine in engines.members}
        self._checked: set[str] = set()
        """Servers whose sampling has been found neutral since they were last away."""

    async def watch(self) -> None:
        """Look after every engine until cancelled."""
        async with asyncio.TaskGroup() as watchers:
            for engine in self._engines.members:
                watchers.create_task(self._watch(engine))

    @property
    def trouble(self) -> str | None:
        """Why engines do not serve the wanted policy, for the job's progress."""
        return " ".join(str(trouble.error) for trouble in self._troubles.values()) or None

    def describe_engines(self) -> list[EngineState]:
        """Every engine as this replica sees it."""
        troubles = {url: str(trouble.error) for url, trouble in self._troubles.items()}
        return [
            describe(engine, self._looks[engine.url], troubles.get(engine.url), self._engines.wanted)
            for engine in self._engines.members
        ]

    def refused(self, weights: str, since: float) -> Refused | None:
        """Why an engine will never serve these weights, where it has said so after `since` (`time.monotonic`)."""
        for trouble in self._troubles.values():
            if trouble.weights == weights and trouble.at >= since and isinstance(trouble.error, Refused):
                return trouble.error
        return None

    def served(self, weights: str) -> bool:
        """Whether any engine serves these weights now."""
        return any(engine.serving == weights for engine in self._engines.members)

    async def _watch(self, engine: Engine) -> None:
        controls = self._engines.controls(engine)
        while True:
            engine.doubted.clear()
            wanted = self._engines.wanted
            try:
                same = await self._look_at_load(engine, controls)
                if not (same and self._is_confirmed(engine)):
                    serving = await self._look_after(engine, controls)
                    if not engine.doubted.is_set():  # Else a request has failed meanwhile: look again.
                        engine.serving = serving
                        engine.confirmed = time.monotonic()
                    if serving is not None:
                        self._troubles.pop(engine.url, None)
            except DriftError as error:
                engine.serving = None
                before = self._troubles.get(engine.url)
                if before is None or str(error) != str(before.error):
                    log.warning("engine_trouble", engine=engine.url, error=str(error))
                self._troubles[engine.url] = _Trouble(wanted, time.monotonic(), error)
            self._give_up(engine, controls)
            self._engines.announce()
            self._engines.freed.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(engine.doubted.wait(), WATCH_S)

    async def _look_at_load(self, engine: Engine, controls: list[Control]) -> bool:
        """Follow what the engine says of its load; whether all of it spoke, and none is new since the last look."""
        loads = [load for control in controls if (load := await control.load())]
        if not loads:
            self._looks[engine.url].forget()
            engine.most_in_flight = engine.in_flight
            return False
        load = sum(loads[1:], loads[0])
        before = self._looks[engine.url].load
        self._looks[engine.url].note(load, time.monotonic())
        if before is not None and load.generated != before.generated:
            engine.progressed = time.monotonic()
        engine.limit.update(load, engine.most_in_flight)
        engine.most_in_flight = engine.in_flight
        return len(loads) == len(controls) and before is not None and load.generated >= before.generated

    def _give_up(self, engine: Engine, controls: list[Control]) -> None:
        """End what an engine was sent that is gone or stands still: its connections alone might never tell."""
        now = time.monotonic()
        gone = now - max(control.heard for control in controls) > GONE_S
        stalled = now - engine.progressed > self._engines.deadline_s
        if engine.in_flight and (gone or stalled):
            log.warning("engine_given_up", engine=engine.url, requests=engine.in_flight)
            engine.hang_up()

    def _is_confirmed(self, engine: Engine) -> bool:
        lately = time.monotonic() - engine.confirmed < CONFIRM_S
        return lately and engine.serving == self._engines.wanted and engine.breaker.state is Circuit.CLOSED

    async def _look_after(self, engine: Engine, controls: list[Control]) -> str | None:
        """The wanted weights, when the engine serves them; its servers are given them first if need be."""
        wanted = self._engines.wanted
        if wanted is None:
            return None
        base = adapter_base(wanted)
        seen = [await self._put_in_place(engine, control, wanted, base) for control in controls]
        found = [served for served in seen if served is not None]
        # A server behind a router that is away comes back with what it was started with.
        if not found or (len(found) < len(seen) and found[0].root != wanted):
            raise EngineDown(f"The engine at {engine.url} does not answer its health check.")
        for served in found:
            if not _fits(served, wanted, base):
                raise EngineDown(f"{engine.url} serves {served.weights or 'unfinished weights'}, not {wanted}.")
        if engine.breaker.state is Circuit.HALF_OPEN:
            with contextlib.suppress(Refused):  # That is an answer, too.
                await probe(engine, request_model(wanted, found[0].name))
        return wanted

    async def _put_in_place(self, engine: Engine, control: Control, wanted: str, base: str | None) -> Served | None:
        """What the server says that it serves; None when it is away."""
        if not await control.healthy():
            self._checked.discard(control.url)
            return None
        if control.url not in self._checked:
            await check_neutral(control)
            self._checked.add(control.url)
        served = await control.serves()
        if not self.conducting or _fits(served, wanted, base):
            return served
        engine.serving = None
        await _load(control, served, wanted, base)
        log.info("policy_loaded", engine=control.url, weights=wanted)
        return await control.serves()


def _fits(serves: Served, wanted: str, base: str | None) -> bool:
    if base is None:
        return serves.weights == wanted
    return serves.weights == base and serves.adapters.get(adapter_name(wanted)) == wanted


async def _load(control: Control, served: Served, wanted: str, base: str | None) -> None:
    """The full weights where they differ, then the adapter where there is one; other adapters go."""
    weights = base or wanted
    for folder in {weights, wanted} - {served.root}:
        # An engine that is asked for weights that are not there dies of it.
        if Path(folder).is_absolute() and not Path(folder).is_dir():
            raise Refused(
                f"There is no folder {folder} to load into the engine at {control.url}.",
                remedy="The rollout service, the trainer and the engines must see DRIFT_RUNS_ROOT under the same path.",
            )
    for name in served.adapters:
        if name.startswith(ADAPTER_PREFIX) and name != adapter_name(wanted):
            await control.drop_adapter(name)
    if served.weights != weights:
        await control.load_weights(weights)
    if base is not None and served.adapters.get(adapter_name(wanted)) != wanted:
        await control.load_adapter(wanted)
