"""Settings of the rollout service."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from shared.settings import StoreSettings, Urls


class RolloutSettings(StoreSettings):
    """What the rollout service may be told, besides where Redis and the runs are."""

    engine_urls: Urls = ("http://127.0.0.1:8100",)
    """vLLM servers that all serve the same model, comma-separated."""
    engine_model: str | None = None
    """Name of the model to ask the engines for; absent takes the one that they serve."""
    engine_control_urls: Urls = ()
    """vLLM servers behind a router, where `engine_urls` is that router: health, load and weights are theirs."""
    engine_in_flight_min: Annotated[int, Field(ge=1)] = 16
    """Requests that may always be in flight at one engine from this process."""
    engine_in_flight_max: Annotated[int, Field(ge=1)] = 4096
    """Most requests in flight at one engine from this process; how many really are follows the engine's load."""
    engine_deadline_s: Annotated[float, Field(gt=0)] = 900.0
    """Longest that one turn is without a fit engine, or loses to engines that fail; then the trajectory fails. What an
    engine has in flight that samples nothing for so long is repeated elsewhere. An answer itself may take longer."""
    verifier_url: str = "http://127.0.0.1:8001"
    """The verifier service."""
    data_root: Path = Path("data")
    """Folder that a job's `path` datasets are read from."""
    templates_root: Path | None = None
    """Folder of prompt templates, NAME.jinja, that jobs may name; absent has only the built-in ones."""
    rollout_host: str = "127.0.0.1"
    """Address to listen on; beyond loopback only with DRIFT_API_KEYS."""
    rollout_port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port to listen on."""
    high_water: Annotated[int, Field(ge=1)] = 10_000
    """No new group begins while this many trajectories wait in the stream for the trainer's ingest."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 64 << 20
    """Largest request body."""
    rollout_rate: Annotated[float, Field(gt=0)] = 100.0
    """Requests a second of one key, where there are keys; beyond it they are refused with 429."""

    @field_validator("engine_urls", "engine_control_urls", "verifier_url")
    @classmethod
    def _http(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        urls = (value,) if isinstance(value, str) else value
        if any(not url.startswith(("http://", "https://")) for url in urls):
            raise ValueError("must be http:// or https:// URLs, e.g. http://127.0.0.1:8100")
        return value if isinstance(value, str) else tuple(url.rstrip("/") for url in urls)

    @field_validator("engine_urls")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("must name at least one engine, e.g. http://127.0.0.1:8100")
        return value

    @field_validator("engine_control_urls")
    @classmethod
    def _one_router(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and len(info.data.get("engine_urls", ())) != 1:
            raise ValueError("belong to one router: then DRIFT_ENGINE_URLS names it alone")
        return value
