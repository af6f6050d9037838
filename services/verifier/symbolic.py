"""The symbolic tier: computer algebra on one pair of answers. Slow and greedy by nature, so it runs only inside `zygote`'s workers."""

import warnings

from math_verify import parse, verify


def answers_equal(gold: str, answer: str) -> bool:
    """Whether two clean answers are the same mathematical object."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted, found = (parse(f"${text}$", parsing_timeout=0) for text in (gold, answer))
        return bool(verify(wanted, found, timeout_seconds=0))
