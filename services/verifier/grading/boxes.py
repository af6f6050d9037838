r"""Balanced boxes: `\boxed{...}`, `\fbox{...}`, `\framebox{...}`; the last one, or the list of the last ones."""

import re
from itertools import pairwise
from typing import NamedTuple

from services.verifier.grading.region import is_placeholder

BOX = re.compile(
    r"\\(?:boxed|fbox|framebox)\s*(?=\{)|\\boxed\s+(?=[^\s{])|\x08oxed\s*(?=\{)|\x08oxed\s+(?=[^\s{])"
    r"|boxed(?<![A-Za-z\\]boxed)\s*(?=\{)"
)
ESCAPED_OR_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
BARE_BOX = re.compile(r"[^\s$]{1,200}")
MAX_CHAIN = 16
"""Most boxes that make one list, and deepest boxes in boxes."""
GLUE = re.compile(
    r"[\s$,;.]*(?:\\(?:text|mbox|mathrm|quad|qquad|,|;|\(|\)|\[|\])\s*)*[{]?\s*(?:and|or|,|;|&)?\s*[}]?[\s$,;~]*(?:\\(?:quad|qquad|,|;|\(|\)|\[|\])[\s$]*)*"
    r"(?:[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=\s*)?"
)
APPROXIMATE = re.compile(
    r"[\s$]*(?:\\[()\[\]][\s$]*)*(?:\\approx|\\simeq|\\sim|≈|~|(?:or|which\s+is|i\.e\.)?\s*(?:about|approximately|roughly))[\s$:]*(?:\\[()\[\]][\s$]*)*",
    re.IGNORECASE,
)


class Box(NamedTuple):
    """A balanced box: where it starts and ends, and the bounds of its content."""

    start: int
    end: int
    low: int
    high: int

    def content(self, text: str) -> str:
        """What the box holds."""
        return text[self.low : self.high].strip()


def find_boxes(text: str) -> list[Box]:
    """Every balanced box that holds something, in order of its start; one pass over the braces."""
    first = text.find("box")
    if first < 0 and "\x08" not in text:
        return []
    openings = [match.span() for match in BOX.finditer(text, 0 if "\x08" in text else max(0, first - len("\\frame")))]
    if not openings:
        return []
    closing = _matching_braces(text, openings[0][1], openings[-1][1])
    boxes: list[Box] = []
    for start, brace in openings:
        if text[brace] != "{":
            word = BARE_BOX.match(text, brace)
            if word:
                boxes.append(Box(start, word.end(), brace, word.end()))
        elif brace in closing and text[brace + 1 : closing[brace]].strip():
            boxes.append(Box(start, closing[brace] + 1, brace + 1, closing[brace]))
    return boxes


def _matching_braces(text: str, first: int, last: int) -> dict[int, int]:
    """Where each brace closes, from the brace at `first` on, until none is open beyond `last`."""
    stack: list[int] = []
    closing: dict[int, int] = {}
    for match in ESCAPED_OR_BRACE.finditer(text, first):
        place = match.start()
        mark = text[place]
        if mark == "{":
            stack.append(place)
        elif mark == "}" and stack:
            closing[stack.pop()] = place
            if not stack and place > last:
                break
    return closing


def last_box(text: str) -> str | None:
    """The last box; neighbours joined by a comma, `and` or `or` make one list, an approximation of the box before it
    is left out."""
    boxes = find_boxes(text)
    if not boxes:
        return None
    outer: list[Box] = []
    for box in boxes:
        if (not outer or box.start >= outer[-1].end) and not is_placeholder(
            text[box.low : min(box.high, box.low + 100)].strip()
        ):
            outer.append(box)
    if not outer:
        return None
    if len(boxes) == 1:
        return outer[0].content(text)
    if len(outer) == 1:
        return unwrap_box(outer[0].content(text))
    while (
        len(outer) > 1
        and outer[-1].start - outer[-2].end <= 60
        and APPROXIMATE.fullmatch(text[outer[-2].end : outer[-1].start])
    ):
        outer.pop()
    chain = [outer[-1].content(text)]
    for after, before in pairwise(reversed(outer[-MAX_CHAIN:])):
        between = text[before.end : after.start]
        if len(between) > 40 or not GLUE.fullmatch(between) or before.content(text) == chain[-1]:
            break
        chain.append(before.content(text))
    return unwrap_box(", ".join(reversed(chain)))


def unwrap_box(text: str) -> str:
    """The content where a box holds nothing but a box."""
    boxes = find_boxes(text)
    for box in boxes:
        if box.start != 0 or box.end != len(text):
            break
        return unwrap_box(box.content(text)) if len(boxes) < MAX_CHAIN else boxes[-1].content(text)
    return text
