"""`python -m services.rollout`: serve on DRIFT_ROLLOUT_HOST:DRIFT_ROLLOUT_PORT."""

import gc
import sys

import uvicorn

from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings
from shared.errors import SettingsError
from shared.settings import check_exposure, load_settings


def main() -> None:
    """Serve until stopped."""
    try:
        settings = load_settings(RolloutSettings)
        check_exposure(settings.rollout_host, "DRIFT_ROLLOUT_HOST", settings)
    except SettingsError as error:
        sys.exit(str(error))
    app = create_app(settings)
    gc.freeze()  # The modules' objects are never garbage: a full collection is spared from looking through them.
    uvicorn.run(
        app,
        host=settings.rollout_host,
        port=settings.rollout_port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
