"""The process that symbolic workers are forked from: it imports SymPy once, so a killed worker is replaced in
milliseconds.

Started as `python -m services.verifier.zygote FD MEMORY_MB TASKS` with a listening socket as FD. Each connection gets a
worker of its own: it says its process id, then answers one JSON line with one JSON line until TASKS are done or the
connection ends. When the server goes away (standard input ends), every worker dies with the zygote.
"""

import logging
import os
import resource
import select
import signal
import socket
import sys

import orjson

from services.verifier.grading.cost import Exhausted
from services.verifier.grading.syntax import Unparsed
from services.verifier.symbolic import Refused, answers_equal
from services.verifier.task import Outcome, Task

WARM_UP = (
    (r"\lim_{t\to 0} \frac{\sin t}{t}", "1"),
    (r"\int_0^1 t e^t dt", "1"),
    (r"\sum_{n=1}^{\infty} \frac{1}{n^2}", r"\frac{\pi^2}{6}"),
)
"""Solved once before the first fork, so that every worker starts with SymPy's caches full."""


def serve(listener: socket.socket, memory_mb: int, tasks: int) -> None:
    """Fork a worker for each connection until standard input ends."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready and not os.read(sys.stdin.fileno(), 1):
            os.killpg(0, signal.SIGKILL)
        if listener in ready:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                work(connection, memory_mb, tasks)
                os._exit(0)
            connection.close()


def work(connection: socket.socket, memory_mb: int, tasks: int) -> None:
    """One worker's life, under its memory limit and behind the server in priority."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)
    lines = connection.makefile("rwb")
    lines.write(orjson.dumps(os.getpid()) + b"\n")
    lines.flush()
    for _ in range(tasks):
        line = lines.readline()
        if not line:
            return
        lines.write(answer(line))
        lines.flush()


def encode(outcome: Outcome) -> bytes:
    """One line of JSON."""
    return orjson.dumps(outcome.model_dump()) + b"\n"


SPENT = encode(Outcome(failure="The memory limit of a symbolic worker was reached.", spent=True))
"""Written beforehand: at the limit there is no room to write it."""


def answer(line: bytes) -> bytes:
    """The outcome of one task, as it is sent."""
    try:
        return encode(settle(line))
    except MemoryError:
        return SPENT


def settle(line: bytes) -> Outcome:
    """Do one task; whatever computer algebra raises becomes the outcome's failure, but for the end of its memory."""
    try:
        return Outcome(equal=any(answers_equal(gold, found) for gold, found in Task.model_validate_json(line).pairs))
    except MemoryError:
        raise
    except (Refused, Exhausted) as refusal:
        reason = str(refusal) or "too many steps of evaluation"
        return Outcome(failure=f"Refused: {reason}.")
    except Unparsed:
        return Outcome(failure="Computer algebra has no word for a part of the formula.")
    except RecursionError:
        return Outcome(failure="The answer is nested too deeply.")
    except Exception as error:  # noqa: BLE001 - computer algebra raises whatever it likes; the outcome must say so
        return Outcome(failure=f"{type(error).__name__}: {error}"[:200])


def main(arguments: list[str]) -> None:
    """Entry point; see the module's docstring."""
    descriptor, memory_mb, tasks = map(int, arguments)
    logging.disable(logging.CRITICAL)
    for gold, found in WARM_UP:
        answers_equal(gold, found)
    serve(socket.socket(fileno=descriptor), memory_mb, tasks)


if __name__ == "__main__":
    main(sys.argv[1:])
