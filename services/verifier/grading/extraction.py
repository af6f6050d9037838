"""Where the answer stands in a response.

Every step is a linear scan. In order: what follows the last `</think>`; the last `<answer>`; the last balanced box;
what follows the last answer marker; the last formula; the last number. A short response without any of these is
itself the answer. A prompt's own placeholder (`[your answer]`) is never an answer.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from services.verifier.grading.boxes import MAX_CHAIN, last_box
from services.verifier.grading.markers import SENTENCE_END, clean_clause, join_spans, marked_answer, math_spans
from services.verifier.grading.normal import PLAIN
from services.verifier.grading.number_words import in_digits
from services.verifier.grading.numerals import parse_number
from services.verifier.grading.region import answer_region, is_placeholder
from services.verifier.grading.words import is_known_phrase, is_words

NUMBER = re.compile(
    r"(?<![\w.\\^_])(?:(?<=[=:]\s)[-−]\s|[-−+]|[Nn]egative\s)?(?:[$€£¥₹]\s?|\\\$\s?)?"
    r"(?:\d{1,3}\s\d{1,2}/\d{1,3}(?![\d/])|\d+(?::\d+)+(?:\s?[AaPp]\.?[Mm]\b)?|\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d+)?(?:\s*/\s*\d+(?:\.\d+)?)?(?:\s*(?:\\?%|percent(?:age)?\b|pct\b))?"
)
SHORT = 300
"""Fewer characters than this may be an answer without anything around it."""
NEAR_END = 500
"""Where the last number most often stands, in characters from the end."""
CJK_NUMBER = re.compile(r"(?<![\d.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?")
_ITEM = r"\s*[-−+\w.√π^*/]+\s*"
_GROUP = rf"\s*[(\[{{]{_ITEM}(?:,{_ITEM})*[)\]}}]\s*"
TUPLE = re.compile(rf"(?<![\w\\])[(\[{{](?:{_ITEM}|{_GROUP})(?:,(?:{_ITEM}|{_GROUP}))+[)\]}}]")
"""A point, an interval, a set or a matrix in prose."""
SEVERAL_SENTENCES = re.compile(r"[a-z\d)][.!?]\s+[A-Z][a-z]")
CONTINUED = re.compile(r"\\begin|[-+*/^=,;(\[{&\\]\s*\n|\n\s*[-+*/^=,;)\]}&\\]")
"""A formula that goes on over a line's end."""
LAST_REASON = re.compile(
    r"(?:[,;(–—]\s*since|[,;(–—]?\s?\bbecause)\b(?:(?!\b(?:so|therefore|thus|hence|then)\b|=)[^\n.!?]|\.(?=\d))*+[.!?)]*+$",
    re.IGNORECASE,
)
LETTER = re.compile(r"\(?[A-Za-z]\)?")
LAST_LETTER = re.compile(r"(?:^|[\s:])(\(?[A-Za-z]\)?)$")
COORDINATE = re.compile(r"\s*([xyz])\s*=[^=]+$")
SAID = re.compile(r"\b(?:is|are|equals?)\s+([a-z]++(?:[\s-]++[a-z]++){0,8})$", re.IGNORECASE)
LISTED = re.compile(r"\s*(?:,|;|,?\s*(?:and|or))\s*(?:[A-Za-z](?:_\{?\w\}?)?\s*=\s*)?")
ENUMERATED = re.compile(
    r"(?:\b(?:are|be|values?|roots?|solutions?|either|include|numbers?)(?:\s+(?:of|for)\s+\w)?|[A-Za-z]\s*=|:)\s*$"
)
"""What introduces a list of numbers: `the roots are 2 and 3`."""


def last_formula(text: str) -> tuple[int, str] | None:
    """The last formula and where it starts; neighbours joined by a comma or `and` make one list."""
    spans = [span for span in math_spans(text) if span[2][0] not in "^_"]
    if not spans:
        return None
    index = len(spans) - 1
    while index > 0 and re.fullmatch(
        r"\s*(?:,|;|,?\s*and|,?\s*or)\s*", text[spans[index - 1][1] : spans[index][0]][:30]
    ):
        index -= 1
    return spans[-1][0], join_spans(text, spans[index:], spans[index][1], spans[index][2])


def last_number(text: str) -> tuple[int, str] | None:
    """The last number of a prose text and where it starts, with its sign, currency, percent sign and denominator."""
    found = list(NUMBER.finditer(text, max(0, len(text) - NEAR_END)))
    found = found or list(NUMBER.finditer(text)) or list(CJK_NUMBER.finditer(text))
    if not found:
        return None
    start, last = found[-1].start(), found[-1][0].strip()
    groups = list(TUPLE.finditer(text, max(0, start - 100)))
    if groups and groups[-1].start() < start < groups[-1].end():
        return groups[-1].start(), groups[-1][0]
    items = [last]
    for before, after in pairwise(reversed(found[-MAX_CHAIN:])):
        if not LISTED.fullmatch(text[after.end() : before.start()]):
            break
        items.append(after[0].strip())
        start = after.start()
    if len(items) > 1 and ENUMERATED.search(text[max(0, start - 40) : start]):
        return start, ", ".join(reversed(items))
    return found[-1].start(), last


AMOUNT = re.compile(
    r"\b(?:half|halves|thirds?|quarters?|fourths?|fifths?|hundreds?|thousands?|millions?|billions?|trillions?|dozens?|pairs?|plus|minus|times|squared|cubed"
    r"|sqrt|root|log|ln|exp|sin|cos|tan|pi|over|factorial|power|not|less|more|fewer|greater|least|most|above|below|under|between|at|mod|base|inf(?:inity)?|dne|none|january|february|march|april|may|june|july|august|september|october|november|december|jan|feb|mar|apr|aug|sept?|oct|nov|dec)\b",
    re.IGNORECASE,
)
FORMULA = re.compile(r"[\\^_+*/=<>|!]")
OPENING = re.compile(r"\s*(?:[(\[{]|\\[{(\[])")
LEADING_TRUTH = re.compile(r"(?:yes|no|true|false)\b(?=[.,:;!])", re.IGNORECASE)
TRUTH = re.compile(r"\b(?:true|false|yes|no|correct|incorrect)\b", re.IGNORECASE)
COMMAND = re.compile(r"\\(?:(?:text|mbox|mathrm)\s*\{[^{}]*\}|[A-Za-z]+)")
PROSE = re.compile(
    r"[A-Za-z]{2,}[,;:]?\s+[A-Za-z]{2,}[,;:]?\s+[A-Za-z]{2,}|[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]{3,}"
)


def extract_math(response: str, golds: Sequence[str] = ()) -> str | None:
    """The answer as written in the response, or None where there is none.

    Where the gold answers are words, the last sentence, or a `yes` or `no` in front, comes before any number.
    """
    text = answer_region(response)
    if len(text) < SHORT and PLAIN.fullmatch(text):
        return text
    if not text or is_placeholder(text):
        return None
    box = last_box(text)
    if box is not None:
        return box.strip()
    marked = marked_answer(text)
    if marked is not None:
        return marked
    if is_known_phrase(text) or in_digits(text) is not None:
        return text
    first, _, rest = text.partition("\n\n")
    if rest.lstrip()[:1].isalpha() and parse_number(first.strip()) is not None:
        return first.strip()
    text = _without_reason(text)
    if (
        len(text) < SHORT
        and not (PROSE.search(COMMAND.sub("", text)) or SEVERAL_SENTENCES.search(text))
        and "\n\n" not in text
    ):
        spans = math_spans(text)
        if not spans and "\n" in text and not CONTINUED.search(text):
            text = _last_line(text)
        if not spans or (spans[0][0] == 0 and spans[-1][1] >= len(text.rstrip("."))):
            return text
    truth = _stated_truth(text)
    if truth is not None:
        return truth
    if golds and all(map(is_words, golds)):
        leading = LEADING_TRUTH.match(text)
        return leading[0] if leading else _last_sentence(text)
    if golds and all(map(LETTER.fullmatch, golds)) and (letter := LAST_LETTER.search(_last_sentence(text) or "")):
        return letter[1]
    formula, number = last_formula(text), last_number(text)
    if formula and (number is None or number[0] < formula[0] + len(formula[1]) + 2):
        return formula[1]
    return number[1] if number else _spelled_number(text)


def _last_line(text: str) -> str:
    """What a short calculation ends with: the coordinates where each line gives one, else its last line."""
    lines = text.split("\n")
    named = [match[1] for match in map(COORDINATE.match, lines) if match]
    if len(set(named)) == len(lines):
        return ", ".join(lines)
    return lines[-1] if re.search(r"\d", lines[-1]) else text


def _without_reason(text: str) -> str:
    """The text without the reason behind its last statement, where a number stands before it: `6, because 2 * 3`."""
    if "ecause" not in text and "ince" not in text:
        return text
    reason = LAST_REASON.search(text, max(0, len(text) - NEAR_END))
    return text[: reason.start()] if reason and re.search(r"\d[^\n.!?]*$", text[: reason.start()]) else text


def _spelled_number(text: str) -> str | None:
    """The number in words that the last sentence ends with: `the number is six`."""
    said = SAID.search(_last_sentence(text) or "")
    return said[1] if said and in_digits(said[1]) is not None else None


def _stated_truth(text: str) -> str | None:
    """A short last sentence without numbers that says yes or no."""
    sentence = _last_sentence(text) or ""
    return sentence if len(sentence) < 120 and TRUTH.search(sentence) and not re.search(r"[\d\\$]", sentence) else None


def _last_sentence(text: str) -> str | None:
    sentences = [part for part in SENTENCE_END.split(text[-1_000:]) if part and part.strip()]
    return (clean_clause(sentences[-1]) or None) if sentences else None


def lone_number(text: str) -> str | None:
    """The number of a clause that holds exactly one among words: `42 because geometry proves it`, `so x equals -3`."""
    found = [match[0].strip() for match in NUMBER.finditer(text)]
    if len(found) != 1 or not re.search(r"[A-Za-z]{2,}", text) or AMOUNT.search(text):
        return None
    rest = text.replace(found[0], "")
    return None if FORMULA.search(rest) or OPENING.match(text) else found[0]
