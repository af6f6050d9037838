"""Keeps one command on a leash: when the owner goes away, however it does, the command and all its descendants go too.

Run as `python keeper.py LEASH GRACE COMMAND...` in a session of its own. LEASH is the inherited read end of a pipe
whose write end only the owner holds: it is readable once the owner is dead, SIGKILL included. The keeper adopts
orphaned descendants (Linux), so that those in sessions of their own (torchrun's ranks) are found as well. It ends
with the command's exit code, 128 + N for signal N, and only after every descendant is gone.
"""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil

SWEEP_S = 10.0
"""Longest time to see killed descendants go; one stuck in the kernel is left to it."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans(adopt: bool = True) -> None:
    """Become, or cease to be, the parent of every descendant whose own parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills the child when its parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def keep(leash: int, grace_s: float, command: list[str]) -> int:
    """Run `command` until it ends, the leash is cut or SIGTERM comes; it then has `grace_s` seconds to end."""
    adopt_orphans()
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(leash, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)

    def reap() -> bool:
        """Collect the dead; whether the command itself is among them."""
        with suppress(ChildProcessError):
            while (dead := os.waitpid(-1, os.WNOHANG))[0]:
                if dead[0] == child.pid:
                    child.returncode = os.waitstatus_to_exitcode(dead[1])
        return child.returncode is not None

    released = False
    while not reap() and not released:
        for key, _ in selector.select():
            released |= key.fd == leash or any(byte != signal.SIGCHLD for byte in os.read(woken, 256))
    if not reap():
        child.send_signal(signal.SIGTERM)
        selector.unregister(leash)
        deadline = time.monotonic() + grace_s
        while not reap() and (left := deadline - time.monotonic()) > 0:
            if selector.select(left):
                os.read(woken, 256)
    deadline = time.monotonic() + SWEEP_S
    while (alive := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=0.1)
        reap()
    code = child.returncode if child.returncode is not None else -signal.SIGKILL
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
