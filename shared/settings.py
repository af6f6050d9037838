"""Settings come from the environment, `.env` or files, prefix `DRIFT_`; a wrong one names itself and its remedy.

Files are those of container platforms: `/run/secrets/drift_redis_url` holds what `DRIFT_REDIS_URL` would.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import SettingsError


def _split_commas(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Keys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split_commas)]
Urls = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]


SECRETS = Path("/run/secrets")


class Settings(BaseSettings):
    """What every part may be told; each service adds its own fields."""

    model_config = SettingsConfigDict(
        env_prefix="DRIFT_",
        env_file=".env",
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    api_keys: Keys = ()
    """Bearer tokens that the HTTP APIs accept, comma-separated; empty leaves them open, which fits loopback only."""
    publish_address: str | None = None
    """In a container: the host's address that the port is published on, which decides whether keys are needed."""
    log_level: str = "INFO"
    """Least severe level that is logged: DEBUG, INFO, WARNING or ERROR."""

    @field_validator("api_keys")
    @classmethod
    def _sendable(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(key.get_secret_value().isascii() and key.get_secret_value().isprintable() for key in keys):
            raise ValueError("a key is sent in a header: use printable ASCII only")
        return keys


class StoreSettings(Settings):
    """Where the rollout service and the trainer meet: Redis, and the folder of runs."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """Redis or Valkey, as redis://[:password@]host:port/db (rediss:// for TLS, unix:// for a socket)."""
    runs_root: Path = Path("runs")
    """Folder of jobs' datasets, checkpoints and reports; rollout service, trainer and engine see it alike."""

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://, e.g. redis://127.0.0.1:6379/0")
        return url


S = TypeVar("S", bound=Settings)


def load_settings(settings_class: type[S]) -> S:
    """Read the settings; raises `SettingsError` that names each wrong variable and what it means."""
    try:
        return settings_class()
    except ValidationError as error:
        lines = [_explain(settings_class, problem["loc"], problem["msg"]) for problem in error.errors()]
        raise SettingsError("\n".join(lines), remedy="Set it in the environment or in `.env`.") from None


def check_exposure(host: str, variable: str, settings: Settings) -> None:
    """Raise `SettingsError` where a service would be reached from beyond loopback without tokens."""
    if settings.publish_address is not None:
        host, variable = settings.publish_address, "DRIFT_PUBLISH_ADDRESS"
    loopback = host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
    if not loopback and not settings.api_keys:
        raise SettingsError(f"{variable}={host} opens the service to others.", remedy="Set DRIFT_API_KEYS too.")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _explain(settings_class: type[Settings], location: tuple[int | str, ...], problem: str) -> str:
    name = str(location[0]) if location else "?"
    field = settings_class.model_fields.get(name)
    meaning = f" ({field.description})" if field and field.description else ""
    return f"DRIFT_{name.upper()}: {problem}{meaning}."
