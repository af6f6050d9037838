"""`python -m services.rollout`: serve on DRIFT_ROLLOUT_HOST:DRIFT_ROLLOUT_PORT."""

import ipaddress
import sys

import uvicorn

from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings
from shared.errors import SettingsError
from shared.settings import load_settings


def main() -> None:
    """Serve until stopped."""
    try:
        settings = load_settings(RolloutSettings)
        _check_exposure(settings)
    except SettingsError as error:
        sys.exit(str(error))
    uvicorn.run(
        create_app(settings),
        host=settings.rollout_host,
        port=settings.rollout_port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=10,
    )


def _check_exposure(settings: RolloutSettings) -> None:
    host = settings.rollout_host
    loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    if not loopback and not settings.api_keys:
        raise SettingsError(f"DRIFT_ROLLOUT_HOST={host} opens the service to others.", remedy="Set DRIFT_API_KEYS too.")


if __name__ == "__main__":
    main()
