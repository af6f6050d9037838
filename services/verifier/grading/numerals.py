"""Plain numbers, exactly: integers and fractions as rationals, decimals with the digits they were written with."""

import re
from fractions import Fraction
from typing import NamedTuple

MAX_DIGITS = 2000
"""Longest numeral that is read as a number."""

MAX_EXPONENT = 400
"""Largest power of ten that a scientific numeral may carry."""

INTEGER = re.compile(r"-?\d{1,18}")
NUMERAL = re.compile(
    r"(?P<sign>[-+]?)\s*(?:\\?\$\s*|[€£¥₹]\s*)?(?P<sign2>-?)(?P<int>\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+"
    r"|\d*)(?:\.(?P<dec>\d*))?"
    r"(?:[eE](?P<exp>[-+]?\d{1,4})|\s*(?:\\times|\\cdot|\*|x|X)\s*10\s*(?:\^|\*\*)\s*[{(]?\s*(?P<ten>[-+]?\s*\d{1,4})\s*[)}]?)?"
    r"(?P<percent>\s*(?:\\?%|(?:\\text\s*\{\s*)?(?:percent(?:age)?|pct)\b\s*\}?))?"
)
GROUPED = re.compile(
    r"(?P<sign>[-+]?)(?:\\?[$€£¥₹]\s?)?(?:(?P<swiss>\d{1,3}(?:'\d{3})+)|(?P<python>\d{1,3}(?:_\d{3})+)"
    r"|(?P<indian>\d{1,2}(?:,\d{2})*,\d{3})|(?P<dots>\d{1,3}(?:\.\d{3}){2,})(?:,(?P<tail>\d+))?"
    r"|(?P<dot>\d{1,3}(?:\.\d{3})+),(?P<rest>\d+)|(?P<space>\d{1,3}(?: \d{3})+),(?P<end>\d+))(?P<point>\.\d+)?"
)
"""Digit grouping of other countries: `1'234'567`, `1_234`, `12,34,567`, `1.234.567,89`, `1 234,5`."""
FRACTION = re.compile(
    r"(?P<sign>[-+]?)\s*(?:\\frac\s*\{\s*(?P<n1>[-+]?\d+)\s*\}\s*\{\s*(?P<d1>[-+]?\d+)\s*\}|\\frac\s*(?P<n2>\d)\s*(?P<d2>\d)|(?P<n3>\d+)\s*/\s*(?P<d3>-?\d+)"
    r"|\(\s*(?P<n4>[-+]?\d+)\s*\)\s*/\s*\(?\s*(?P<d4>[-+]?\d+)\s*\)?)"
)
MIXED = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<whole>\d+)\s*(?:\\frac\s*\{\s*(?P<n1>\d+)\s*\}\s*\{\s*(?P<d1>\d+)\s*\}|\\frac\s*(?P<n2>\d)(?P<d2>\d)|\s(?P<n3>\d+)\s*/\s*(?P<d3>\d+))"
)


class Number(NamedTuple):
    """A numeral's exact value; `digits` is the count of decimals it was written with, None where it is exact."""

    value: Fraction | int
    digits: int | None = None
    percent: bool = False


def parse_number(text: str) -> Number | None:
    """The number that a clean text spells and nothing else; None where it spells more than a number."""
    if INTEGER.fullmatch(text):
        return Number(int(text))
    if len(text) > MAX_DIGITS or not text or not any(map(str.isdigit, text)):
        return None
    if "/" not in text and "\\frac" not in text:
        match = NUMERAL.fullmatch(text)
        if match and (match["int"] or match["dec"]):
            return _numeral(match)
        match = GROUPED.fullmatch(text)
        return _grouped(match) if match else None
    match = FRACTION.fullmatch(text) or MIXED.fullmatch(text)
    if not match:
        return None
    sign, *parts = match.groups()
    *whole, top, bottom = map(int, filter(None, parts))
    return Number(_signed(sign, sum(whole) + Fraction(top, bottom))) if bottom else None


def _numeral(match: re.Match[str]) -> Number | None:
    sign, sign2, whole, decimals, exp, ten, percentage = match.groups()
    whole = (whole or "").replace(",", "").replace(" ", "")
    power = exp or ten
    exponent = int(power.replace(" ", "")) if power else 0
    if abs(exponent) > MAX_EXPONENT:
        return None
    percent = percentage is not None
    places = len(decimals or "") - exponent + 2 * percent
    value = _signed(sign, _signed(sign2, _shifted(int(whole + (decimals or "") or "0"), -places)))
    return Number(value, places if decimals is not None or exponent < 0 else None, percent)


def _grouped(match: re.Match[str]) -> Number | None:
    european = match["dots"] or match["dot"] or match["space"]
    if european and match["point"]:
        return None
    whole = re.sub(r"\D", "", european or match["swiss"] or match["python"] or match["indian"])
    decimals = match["tail"] or match["rest"] or match["end"] or (match["point"] or "")[1:]
    value = _shifted(int(whole + decimals), -len(decimals))
    return Number(_signed(match["sign"], value), len(decimals) if decimals else None)


def _shifted(digits: int, places: int) -> Fraction | int:
    return digits * 10**places if places >= 0 else Fraction(digits, 10**-places)


def _signed(sign: str, value: Fraction | int) -> Fraction | int:
    return -value if sign == "-" else value


def significant(number: Number) -> int:
    """How many significant digits a decimal was written with."""
    if number.digits is None:
        return MAX_DIGITS
    scaled = abs(number.value) * Fraction(10) ** number.digits
    return len(str(int(scaled))) if scaled else 1


def numbers_equal(gold: Number, answer: Number) -> bool:
    """Exact equality, or a decimal that is the other's value rounded: see `close`. `25%` is 0.25 and, as written,
    25."""
    if close(gold, answer):
        return True
    if gold.percent != answer.percent:
        gold, answer = (
            Number(n.value * 100, None if n.digits is None else n.digits - 2) if n.percent else n
            for n in (gold, answer)
        )
        return close(gold, answer)
    return False


def close(gold: Number, answer: Number) -> bool:
    """Whether two values agree as far as their digits go.

    Exact values must be equal. A decimal gold of two significant digits or more agrees with an exact answer that
    rounds to it, or
    with a decimal of at least three more digits, within 0.15 %. A decimal of four significant digits or more agrees
    with an
    exact value that is no integer, or with a longer decimal, if it is its rounding. Noise of floating point (1e-9) is
    forgiven.
    """
    top, bottom = gold.value.as_integer_ratio()
    other_top, other_bottom = answer.value.as_integer_ratio()
    left, right = top * other_bottom, other_top * bottom  # over one denominator: integers are quick to compare
    if left == right:
        return True
    if gold.digits is None and answer.digits is None:
        return False
    if 100 * abs(left - right) > max(abs(left), abs(right)):  # most wrong answers; no rule below forgives a percent
        return False
    difference, scale = abs(gold.value - answer.value), max(abs(gold.value), abs(answer.value))
    if difference <= scale * Fraction(1, 10**9):
        return True
    if gold.digits is not None and (answer.digits is None or answer.digits > gold.digits):
        if answer.digits is None and answer.value.denominator == 1:
            return False
        rounded = 2 * difference <= Fraction(10) ** -gold.digits
        if answer.digits is None or answer.digits >= gold.digits + 3:
            return (
                rounded
                and significant(gold) >= 2
                and (answer.digits is None or gold.digits >= 2)
                and difference <= scale * Fraction(15, 10**4)
            )
        return rounded and significant(gold) >= (4 if gold.digits > 0 else 3)
    if answer.digits is not None and (gold.digits is None or gold.digits > answer.digits):
        if gold.digits is None and gold.value.denominator == 1:
            return False
        rounded = gold.digits is None and 2 * difference <= Fraction(10) ** -answer.digits
        near = difference < Fraction(10) ** -answer.digits and difference <= scale * Fraction(15, 10**5)
        return significant(answer) >= 4 and (rounded or near)
    return False
