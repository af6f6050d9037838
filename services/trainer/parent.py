"""A rank never outlives torchrun's agent: nobody else could end it, and its successor needs its place.

Imports nothing heavy, so that it holds from a rank's first milliseconds on. Before that, an agent that dies takes with
it the store where ranks meet, and a rank that finds no store ends.
"""

import ctypes
import os
import signal
import sys

STOPPING = "DRIFT_TRAINER_STOPPING"
"""Environment variable: the agent has been told to stop, and a rank that is started even so only ends."""

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; raises `OSError` where it refuses. Linux only."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl refuses to bind this process to its parent")
    if os.getppid() != parent:  # it has ended in between, and the kernel tells of no death that came before
        os._exit(1)
