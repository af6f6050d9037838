"""`python -m services.trainer.agent [torchrun's options]`: torchrun, for which a stop that was asked for is no failure.

torchrun answers SIGTERM with exit code 1, however well its ranks have ended. Here SIGTERM and SIGINT go to this
machine's ranks and torchrun sees how they end: 0 when all have saved and left, 1 when one has failed or is still there
after `--shutdown-timeout` seconds (30 if none are given).
"""

import os
import signal
import sys
from types import FrameType

import psutil
from torch.distributed import run

from services.trainer.parent import STOPPING

_SHUTDOWN_S = 30


def main(arguments: list[str]) -> None:
    """Does not return while the trainer works."""
    # SIGALRM, torchrun's own sign to give up, is our deadline.
    command = ["--signals-to-handle", "SIGALRM,SIGHUP,SIGQUIT", *arguments, "-m", "services.trainer"]
    deadline = run.parse_args(command).shutdown_timeout or _SHUTDOWN_S

    def stop(_signal: int, _frame: FrameType | None) -> None:
        os.environ[STOPPING] = "1"  # should one fail now, torchrun starts no others in its place that stay
        for rank in psutil.Process().children():
            rank.terminate()
        signal.alarm(deadline)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    run.main(command)


if __name__ == "__main__":
    main(sys.argv[1:])
