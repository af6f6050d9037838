"""The tiers in order, cheapest first: string, number, expression, and what only the symbolic tier can decide.

Pure: values in, values out. `extract` reads an item's answer, `decide` grades it against the golds, or says `Deferred`
where the decision needs a computer algebra system, which runs elsewhere, in a process that can be killed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from services.verifier.grading.boxes import last_box
from services.verifier.grading.choice import extract_choice, gold_letters, item_letters
from services.verifier.grading.comparison import compare
from services.verifier.grading.cost import MAX_DEPTH, MAX_LENGTH, SERVER_STEPS, Exhausted, allowance, nesting, refusal
from services.verifier.grading.extraction import PROSE, extract_math, lone_number
from services.verifier.grading.normal import INTEGER, normal_form, read, string_form
from services.verifier.grading.numerals import numbers_equal
from services.verifier.grading.parser import parse
from services.verifier.grading.region import answer_region
from services.verifier.grading.scalars import free_names
from services.verifier.grading.syntax import Node, Unparsed
from services.verifier.grading.units import in_one_unit, is_quantity
from services.verifier.grading.words import compare_words, named
from shared.grading import Kind, Method, Verdict, VerifyItem

MAX_REMEMBERED = 8_000
"""Longest response whose answer is remembered."""


class Extracted(NamedTuple):
    """An item's answer as written in its response, and its cheap normal form; both None where there is no answer."""

    answer: str | None
    normal_form: str | None


class Decision(NamedTuple):
    """A verdict and the tier that reached it."""

    verdict: Verdict
    method: Method | None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """The pairs (gold, answer) of clean texts that only a symbolic worker can decide; `heavy` where many steps are
    known to be needed."""

    pairs: tuple[tuple[str, str], ...]
    heavy: bool = False


def golds_of(item: VerifyItem) -> tuple[str, ...]:
    """The alternatives of an item's gold answer."""
    return (item.answer,) if isinstance(item.answer, str) else tuple(item.answer)


def choices_of(item: VerifyItem) -> tuple[str, ...] | None:
    """The texts of an item's options; None where it has none."""
    return None if item.choices is None else tuple(item.choices)


def extract(item: VerifyItem) -> Extracted:
    """Read the item's answer out of its response; a response that came before is not read again."""
    extractor = _read_again if len(item.response) <= MAX_REMEMBERED else _read
    return extractor(item.kind, item.response, golds_of(item), item.letters, choices_of(item))


def _read(
    kind: Kind, response: str, golds: tuple[str, ...], letters: str | None, choices: tuple[str, ...] | None
) -> Extracted:
    match kind:
        case "math":
            whole = response.strip()
            answer = whole if whole and whole in map(str.strip, golds) else extract_math(response, golds)
            return Extracted(answer, None if answer is None else normal_form(answer))
        case "choice":
            known = item_letters(letters, choices)
            several = any(len(gold_letters(gold, known, choices)) > 1 for gold in golds)
            chosen = extract_choice(response, known, choices, several)
            return Extracted(chosen, chosen)
        case "string":
            region = answer_region(response) or None
            return Extracted(region, region and string_form(region))


_read_again = lru_cache(maxsize=2_048)(_read)


def decide(item: VerifyItem, extracted: Extracted) -> Decision | Deferred:
    """Grade an extracted answer by the tiers that need no computer algebra."""
    answer = extracted.answer
    if answer is None:
        return Decision(Verdict.UNPARSABLE, None)
    match item.kind:
        case "math":
            return decide_math(golds_of(item), answer)
        case "choice":
            letters = item_letters(item.letters, item.choices)
            right = any(gold_letters(gold, letters, item.choices) == answer for gold in golds_of(item))
            return Decision(_verdict(right), "choice")
        case "string":
            right = any(string_form(gold) == extracted.normal_form for gold in golds_of(item))
            return Decision(_verdict(right), "string")


def decide_math(golds: Sequence[str], answer: str) -> Decision | Deferred:
    """Grade a mathematical answer against the alternatives of its gold; the cheapest tier that says yes decides."""
    if answer in golds:
        return Decision(Verdict.CORRECT, "string")
    if INTEGER.fullmatch(answer) and all(map(INTEGER.fullmatch, golds)):
        return Decision(Verdict.INCORRECT, "numeric")
    written, form, number = read(answer)
    deferred: list[tuple[str, str]] = []
    method: Method = "string"
    heavy, refused = False, None
    for gold in golds:
        wanted, gold_form, gold_number = read(extract_gold(gold))
        if gold_form == form:
            return Decision(Verdict.CORRECT, "string")
        if gold_number is not None and number is not None:
            method = "numeric"
            if numbers_equal(gold_number, number):
                return Decision(Verdict.CORRECT, "numeric")
            continue
        try:
            with allowance(SERVER_STEPS):
                verdict, method = compare_texts(wanted, written)
        except Exhausted:
            heavy = True
            deferred.append((wanted, written))
            continue
        if verdict:
            return Decision(Verdict.CORRECT, method)
        if verdict is None:
            refused = refusal(wanted) or refusal(written)
            if refused is None:
                deferred.append((wanted, written))
    if deferred:
        return Deferred(tuple(deferred), heavy)
    return (
        Decision(Verdict.INCORRECT, method)
        if refused is None
        else Decision(Verdict.ERROR, None, f"Refused: {refused}.")
    )


def extract_gold(gold: str) -> str:
    """A gold answer without its box; golds are answers, never prose with an answer in it."""
    box = last_box(gold)
    return gold if box is None else box


def compare_texts(gold: str, answer: str) -> tuple[bool | None, Method]:
    """Grade two clean texts that are neither equal strings nor both numbers; None where computer algebra must."""
    in_words = compare_words(gold, answer)
    if in_words is not None:
        return in_words, "string"
    unknown = False
    wanted_readings = readings(gold)
    found_readings = readings(answer)
    if not any(map(is_quantity, found_readings)) and (number := lone_number(answer)) is not None:
        found_readings += readings(number)
    for wanted in wanted_readings:
        for found in found_readings:
            verdict = compare(wanted, found)
            if verdict:
                return True, "symbolic" if free_names(wanted) else "numeric"
            unknown = unknown or verdict is None
    if wanted_readings and found_readings:
        return (None if unknown else False), "symbolic" if free_names(wanted_readings[0]) else "numeric"
    return (None if is_formula(gold) and is_formula(answer) else False), "string"


@lru_cache(maxsize=8192)
def readings(text: str) -> tuple[Node, ...]:
    """How a clean text may be read: with `1,234` as one number, as two, and with a decimal comma. Empty where it
    cannot be parsed."""
    if len(text) > MAX_LENGTH or nesting(text) > MAX_DEPTH:
        return ()
    name = named(text)
    if name is not None:
        return (name,)
    text = in_one_unit(DOLLARS.sub(r"\1\2 dollars", text))
    found: list[Node] = []
    for variant, grouping in ((text, True), (text, False), (DECIMAL_COMMA.sub(".", text), True)):
        if not (grouping and variant == text) and "," not in text:
            continue
        try:
            node = parse(variant, grouping)
        except Unparsed:
            continue
        if node not in found:
            found.append(node)
    return tuple(found)


DOLLARS = re.compile(r"^([-+]?)\\?\$\s*([\d.,]*\d)(?:\s+dollars?)?$")
DECIMAL_COMMA = re.compile(r"(?<![\d,.])(?<=\d),(?=\d{1,2}(?![\d,]))|(?<=\d),(?=\d{1,2}$)")


def is_formula(text: str) -> bool:
    """Whether a text that the grammar does not know may still be a formula."""
    return refusal(text) is None and not PROSE.search(text) and re.search(r"[\d\\^_=+*/]", text) is not None


def _verdict(right: bool) -> Verdict:
    return Verdict.CORRECT if right else Verdict.INCORRECT
