"""`torchrun --standalone --nproc-per-node N -m services.trainer`"""

# ruff: noqa: E402 - what comes before the imports must not wait for them

import os
import signal
import sys

from services.trainer.parent import STOPPING, die_with_parent

die_with_parent()
if STOPPING in os.environ:
    sys.exit(1)
for number in (signal.SIGTERM, signal.SIGINT):  # until the worker handles them: nothing is at stake yet
    signal.signal(number, lambda *_: os._exit(0))

# Before PyTorch loads OpenMP: threads that wait by spinning make a step several times slower as soon as
# anything else wants the CPU.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from services.trainer.settings import TrainerSettings
from services.trainer.worker import main
from shared.errors import DriftError
from shared.settings import load_settings

if __name__ == "__main__":
    try:
        main(load_settings(TrainerSettings))
    except DriftError as error:
        sys.exit(str(error))
