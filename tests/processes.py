"""What tests ask of processes that are not their children."""

import psutil


def is_alive(pid: int) -> bool:
    """Whether the process still runs; an orphan that nobody has reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
