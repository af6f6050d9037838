"""`torchrun --standalone --nproc-per-node N -m services.trainer`"""

import os
import sys

# Before PyTorch loads OpenMP: threads that wait by spinning make a step several times slower as soon as
# anything else wants the CPU.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from services.trainer.settings import TrainerSettings  # noqa: E402
from services.trainer.worker import main  # noqa: E402
from shared.errors import DriftError  # noqa: E402
from shared.settings import load_settings  # noqa: E402

if __name__ == "__main__":
    try:
        main(load_settings(TrainerSettings))
    except DriftError as error:
        sys.exit(str(error))
