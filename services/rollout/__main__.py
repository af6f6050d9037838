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
    # A collection stops every episode. The modules' objects are never garbage, and with a thousand trajectories in
    # flight a look through all that lives takes a tenth of a second and finds a few hundred objects: garbage is looked
    # for in small pieces of what is new (some milliseconds each), and elsewhere about once a minute.
    gc.freeze()
    gc.set_threshold(700, 1000, 10)
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
