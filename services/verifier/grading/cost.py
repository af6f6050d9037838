"""The static guard: what is too large to look at, told before any time is spent on it.

Within these limits every tier of the server takes bounded time; the symbolic tier has a deadline besides.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

MAX_LENGTH = 8_000
"""Most characters of an answer that is parsed; longer ones are compared as strings only."""
MAX_TOKENS = 1_500
"""Most tokens of an answer that is parsed."""
MAX_DEPTH = 80
"""Deepest nesting that is parsed."""
MAX_BITS = 40_000
"""Largest integer, in bits, that is computed exactly."""
MAX_TERMS = 400
"""Longest sum or product that is written out."""
MAX_SYMBOLIC_LENGTH = 1_000
"""Longest answer that computer algebra is asked about."""
MAX_SYMBOLIC_DIGITS = 60
"""Longest numeral that computer algebra is asked about."""

SERVER_STEPS = 1_500
"""Steps of evaluation that the server spends on one answer; a worker is asked beyond them."""
WORKER_STEPS = 200_000
"""Steps of evaluation that a worker spends on one answer, within its deadline."""


class Exhausted(Exception):
    """The steps allowed for an evaluation are spent."""


_steps: ContextVar[list[int]] = ContextVar("steps")


@contextmanager
def allowance(steps: int) -> Generator[None]:
    """Within this block at most `steps` steps are spent; the next one raises `Exhausted`."""
    token = _steps.set([steps])
    try:
        yield
    finally:
        _steps.reset(token)


def spend(steps: int) -> None:
    """Count steps of work: one is about five microseconds. Free outside of an `allowance`."""
    left = _steps.get(None)
    if left is not None:
        left[0] -= steps
        if left[0] < 0:
            raise Exhausted


TOWER = re.compile(
    r"\d\s*\^\s*\{?\s*\(?\s*\d+\s*\^|\^\s*\{[^{}]{0,40}\^\s*\{?[^{}^]{0,40}\^"
    r"|\*\*\s*\(?\s*[\w.]{1,20}\s*\*\*|\^\s*\{?\s*\(?\s*\d{4,}|\*\*\s*\(?\s*\d{4,}"
    r"|\d{5,}\s*!|!\s*!\s*!|\)\s*(?:\^|\*\*)\s*\{?\s*\(?\s*\d{3,}"
)
"""Exponents of exponents, large exponents, factorials of large numbers, high powers of sums."""
DIGITS = re.compile(rf"\d{{{MAX_SYMBOLIC_DIGITS + 1},}}")
LARGE_ARGUMENT = re.compile(
    r"(?:binom|factorial|binomial|comb|fibonacci|zeta|gamma)\b\s*[{(]?\s*\d{5,}|\\binom\s*\{\s*\d{5,}"
)


def nesting(text: str) -> int:
    """Deepest bracket nesting of a text, by one scan."""
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def refusal(text: str) -> str | None:
    """Why computer algebra is not asked about a text; None where it may be."""
    if len(text) > MAX_SYMBOLIC_LENGTH:
        return f"longer than {MAX_SYMBOLIC_LENGTH} characters"
    if nesting(text) > 30:
        return "nested more than 30 deep"
    if DIGITS.search(text):
        return f"a numeral of more than {MAX_SYMBOLIC_DIGITS} digits"
    if TOWER.search(text):
        return "a tower of exponents or a large exponent"
    if LARGE_ARGUMENT.search(text):
        return "a factorial or binomial of a large number"
    return None
