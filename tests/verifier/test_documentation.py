"""The documentation's tables of examples are true."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.verifier.grading.extraction import extract_math
from services.verifier.grading.tiers import Decision, decide_math
from shared.grading import Verdict

TEXT = (Path(__file__).parents[2] / "docs" / "verifier.md").read_text()


def rows(heading: str) -> Iterator[list[list[str]]]:
    """The code spans of each cell of the table under a heading."""
    table = TEXT.split(heading, 1)[1].split("\n\n| ", 1)[1].split("\n\n", 1)[0]
    for line in table.splitlines()[2:]:
        yield [re.findall(r"`([^`]*)`", cell) for cell in line.strip("| ").split(" | ")]


COMPARED = [
    (golds[0], answer, equal)
    for golds, *columns in rows("\n## How answers are compared")
    for answers, equal in zip(columns, (True, False), strict=False)
    for answer in answers
]


def test_the_tables_are_read() -> None:
    assert len(COMPARED) > 80


@pytest.mark.parametrize(("gold", "answer", "equal"), COMPARED)
def test_an_example_of_the_comparison_is_true(gold: str, answer: str, equal: bool) -> None:
    decision = decide_math((gold,), answer)
    assert isinstance(decision, Decision)
    assert (decision.verdict == Verdict.CORRECT) == equal


@pytest.mark.parametrize(
    ("response", "answer"),
    [(spans[0][0], spans[1][0]) for spans in rows("\n## How an answer is found") if "..." not in spans[0][0]],
)
def test_an_example_of_the_extraction_is_true(response: str, answer: str) -> None:
    assert extract_math(response) == (None if answer == "unparsable" else answer)
