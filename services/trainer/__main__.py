"""`torchrun --standalone --nproc-per-node N -m services.trainer`"""

import sys

from services.trainer.settings import TrainerSettings
from services.trainer.worker import main
from shared.errors import DriftError
from shared.settings import load_settings

if __name__ == "__main__":
    try:
        main(load_settings(TrainerSettings))
    except DriftError as error:
        sys.exit(str(error))
