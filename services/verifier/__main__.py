"""`python -m services.verifier`: serve on DRIFT_VERIFIER_HOST:DRIFT_VERIFIER_PORT."""

import sys

import uvicorn

from services.verifier.settings import VerifierSettings
from shared.errors import SettingsError
from shared.settings import check_exposure, load_settings


def main() -> None:
    """Serve until stopped."""
    try:
        settings = load_settings(VerifierSettings)
        check_exposure(settings.verifier_host, "DRIFT_VERIFIER_HOST", settings)
    except SettingsError as error:
        sys.exit(str(error))
    uvicorn.run(
        "services.verifier.app:create_app",
        factory=True,
        host=settings.verifier_host,
        port=settings.verifier_port,
        workers=settings.verifier_processes,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
