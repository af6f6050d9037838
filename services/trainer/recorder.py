"""`python -m services.trainer.recorder`: moves trajectories from Redis into the dataset where no trainer runs.

It needs no PyTorch. Recorders and trainers of one folder of runs may be started in any number and order: one of
them records at a time, the others stand by and take over when it ends (see `ingest`).
"""

import asyncio
import signal
import sys

from services.trainer.ingest import Ingest
from services.trainer.settings import RecorderSettings
from shared.errors import DriftError
from shared.settings import load_settings
from shared.stream import connect
from shared.telemetry import configure_logging


async def record(settings: RecorderSettings) -> None:
    """Record until cancelled; raises `Unavailable` when Redis or the disk stays away beyond patience."""
    async with connect(settings.redis_url) as redis:
        await Ingest(redis, settings).run()


async def _record_until_stopped(settings: RecorderSettings) -> None:
    recording = asyncio.create_task(record(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, recording.cancel)
    await asyncio.wait([recording])
    if not recording.cancelled():
        recording.result()


def main() -> None:
    """Entry of the process; exit code 0 when it was asked to stop."""
    try:
        settings = load_settings(RecorderSettings)
        configure_logging("recorder", settings.log_level)
        asyncio.run(_record_until_stopped(settings))
    except* DriftError as errors:
        sys.exit("\n".join(map(str, errors.exceptions)))


if __name__ == "__main__":
    main()
