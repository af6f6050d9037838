"""The tiers in order, cheapest first: string, number, expression, and what only the symbolic tier can decide.

Pure: values in, values out. `extract` reads an item's answer, `decide` grades it against the golds, or says `Deferred`
where the decision needs a computer algebra system, which runs elsewhere, in a process that can be killed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.verifier.choice import extract_choice, gold_letters, item_letters
from services.verifier.extraction import answer_region, extract_math
from services.verifier.normal import clean, normal_form, squeeze, string_form
from services.verifier.math_exact import numbers_equal, parse_number
from shared.grading import Method, Verdict, VerifyItem


@dataclass(frozen=True, slots=True)
class Extracted:
    """An item's answer as written in its response, and its cheap normal form; both None where there is no answer."""

    answer: str | None
    normal_form: str | None


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and the tier that reached it."""

    verdict: Verdict
    method: Method | None


@dataclass(frozen=True, slots=True)
class Deferred:
    """The pairs (gold, answer) of clean texts that only computer algebra can decide."""

    pairs: tuple[tuple[str, str], ...]


def golds_of(item: VerifyItem) -> tuple[str, ...]:
    """The alternatives of an item's gold answer."""
    return (item.answer,) if isinstance(item.answer, str) else tuple(item.answer)


def extract(item: VerifyItem) -> Extracted:
    """Read the item's answer out of its response."""
    match item.kind:
        case "choice":
            letters = item_letters(item.letters, item.choices)
            several = any(len(gold_letters(gold, letters, item.choices)) > 1 for gold in golds_of(item))
            chosen = extract_choice(item.response, letters, item.choices, several)
            return Extracted(chosen, chosen)
        case "string":
            region = answer_region(item.response) or None
            return Extracted(region, region and string_form(region))
        case "math":
            answer = extract_math(item.response)
            return Extracted(answer, None if answer is None else normal_form(answer))


def decide(item: VerifyItem, extracted: Extracted) -> Decision | Deferred:
    """Grade an extracted answer by the tiers that need no computer algebra."""
    answer = extracted.answer
    if answer is None:
        return Decision(Verdict.UNPARSABLE, None)
    match item.kind:
        case "choice":
            letters = item_letters(item.letters, item.choices)
            right = any(gold_letters(gold, letters, item.choices) == answer for gold in golds_of(item))
            return Decision(_verdict(right), "choice")
        case "string":
            right = any(string_form(gold) == extracted.normal_form for gold in golds_of(item))
            return Decision(_verdict(right), "string")
        case "math":
            return decide_math(golds_of(item), answer)


def decide_math(golds: Sequence[str], answer: str) -> Decision | Deferred:
    """Grade a mathematical answer against the alternatives of its gold."""
    written = clean(answer)
    form, number = squeeze(written), parse_number(written)
    deferred: list[tuple[str, str]] = []
    for gold in golds:
        wanted = clean(extract_math(gold) or gold)
        if squeeze(wanted) == form:
            return Decision(Verdict.CORRECT, "string")
        gold_number = parse_number(wanted)
        if gold_number is not None and number is not None:
            if numbers_equal(gold_number, number):
                return Decision(Verdict.CORRECT, "numeric")
        else:
            deferred.append((wanted, written))
    return Deferred(tuple(deferred)) if deferred else Decision(Verdict.INCORRECT, "numeric")


def _verdict(right: bool) -> Verdict:
    return Verdict.CORRECT if right else Verdict.INCORRECT
