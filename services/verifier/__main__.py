"""`python -m services.verifier`: serve on DRIFT_VERIFIER_HOST:DRIFT_VERIFIER_PORT."""

import uvicorn

from services.verifier.settings import VerifierSettings
from shared.settings import load_settings


def main() -> None:
    """Serve until stopped."""
    settings = load_settings(VerifierSettings)
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
