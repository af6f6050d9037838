"""`torchrun --standalone --nproc-per-node N -m services.trainer`"""

import os
import sys

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
