"""The exclusive right to do something in a folder: one process holds it, and the system frees it when that one ends."""

import fcntl
from pathlib import Path
from typing import TextIO


class FolderLock:
    """A lock file that is never removed: who holds it may work, however the last holder ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def take(self) -> bool:
        """Whether this process holds the lock now; never waits."""
        if self._file is not None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Let others have it."""
        if self._file is not None:
            self._file.close()
            self._file = None
