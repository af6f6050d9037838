"""Whether two expressions without lists and relations are the same: literals, units, letters, values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from services.verifier.grading.evaluation import Evaluator, Uncountable, is_slope, points
from services.verifier.grading.numerals import Number, numbers_equal
from services.verifier.grading.syntax import Group, Node, Num, Op, Sym, Text, walk
from services.verifier.grading.units import CONSTANT_NAMES, UNITS, conversion, factors, is_quantity, split_unit
from services.verifier.grading.values import MP, TOLERANCE, Extreme, Undefined, Value, near, to_mp

CALCULUS = ("integral:", "limit:", "derivative", "series:")
"""Operators that computer algebra may have to work out; a sum between two numbers is written out instead."""


CONSTANTS_OF_INTEGRATION = frozenset(["C", "c", "K", "C_1", "c_1", "C_0", "D"])
PERIOD_LETTERS = frozenset("nkmlNK")
MAX_SHOWN_BITS = 110
SLOPE_TOLERANCE = MP.mpf(10) ** -15


@dataclass(frozen=True, slots=True)
class Traits:
    """What an expression holds: its variables (bound ones too), the imaginary unit, calculus, words, an ellipsis."""

    names: frozenset[str]
    imaginary: bool
    calculus: bool
    words: bool
    ellipsis: bool


@lru_cache(maxsize=8192)
def traits(node: Node) -> Traits:
    """The traits of a node, by one walk."""
    names: set[str] = set()
    calculus = words = False
    for part in walk(node):
        match part:
            case Sym(name):
                names.add(name)
            case Text():
                words = True
            case Op(name, args):
                finite = name.startswith("series:") and all(isinstance(bound, Num) for bound in args[1:])
                calculus = calculus or (name.startswith(CALCULUS) and not finite and not is_slope(part))
            case _:
                pass
    free = frozenset(name for name in names if name not in CONSTANT_NAMES and not name.startswith("@"))
    return Traits(free, "i" in names, calculus, words, "..." in names)


def free_names(node: Node) -> frozenset[str]:
    """The variables of an expression; bound ones too."""
    return traits(node).names


def is_constant(node: Node) -> bool:
    return not free_names(node) and not isinstance(node, Text)


def literal(node: Node) -> Number | None:
    """The number of a node that is a numeral, with the digits it was written with."""
    match node:
        case Num(value, digits):
            return Number(value, digits)
        case Op("neg", (inner,)):
            number = literal(inner)
            return None if number is None else Number(-number.value, number.digits, number.percent)
        case Op("percent", (inner,)):
            number = literal(inner)
            return (
                None
                if number is None
                else Number(Fraction(number.value, 100), None if number.digits is None else number.digits + 2, True)
            )
        case Op("degrees", (inner,)):
            return literal(inner)
        case Op("mul", (Num(value, digits), Op("pow", (Num(ten), power)))) if ten == 10:
            exponent = literal(power)
            if exponent is None or exponent.value.denominator != 1 or abs(exponent.value) > 400:
                return None
            shift = int(exponent.value)
            return Number(
                value * Fraction(10) ** shift, None if digits is None and shift >= 0 else (digits or 0) - shift
            )
        case Op("div", (top, bottom)):
            above, below = literal(top), literal(bottom)
            if (
                above is None
                or below is None
                or not below.value
                or above.digits is not None
                or below.digits is not None
            ):
                return None
            return Number(Fraction(above.value, below.value))
        case Group(_, (single,)):
            return literal(single)
        case _:
            return None


def compare_scalars(gold: Node, answer: Node) -> bool | None:
    """Whether two expressions without lists and relations are the same; None where computer algebra must tell."""
    for share, other in ((gold, answer), (answer, gold)):
        if isinstance(share, Op) and share.name == "percent" and (is_quantity(other) or _in_degrees(other)):
            return False  # `5%` is no `5 cm`
    if free_names(gold) != free_names(answer) or traits(gold).words or traits(answer).words:
        bare = _without_units(gold, answer)
        if bare is False:
            return False
        gold, answer = bare
        gold, answer = _same_letters(gold, answer)
    wanted, found = literal(gold), literal(answer)
    if wanted is not None and found is not None:
        return numbers_equal(wanted, found)
    if not traits(gold).names | traits(answer).names and _in_degrees(gold) != _in_degrees(answer):
        angle, other = (gold, answer) if _in_degrees(gold) else (answer, gold)
        if Sym("pi") in walk(other):  # the other is in radians
            gold, answer = Op("mul", (angle, Op("div", (Sym("pi"), Num(Fraction(180)))))), other
    match gold, answer:
        case (Sym(), Sym()) | (Sym(), Op("mul", _)) | (Op("mul", _), Sym()):
            names = _letters(gold), _letters(answer)
            if None not in names and len(names[0] or "") > 2 and (names[0] or "").lower() == (names[1] or "").lower():
                return True
        case Op(name, (Num(digits),)), Num(plain) if name.startswith("sub:"):
            return digits == plain
        case _:
            pass
    if traits(gold).ellipsis or traits(answer).ellipsis:
        return False
    return _same_values(gold, answer, wanted, found)


def _in_degrees(node: Node) -> bool:
    return isinstance(node, Op) and (node.name == "degrees" or (node.name == "neg" and _in_degrees(node.args[0])))


def _without_units(gold: Node, answer: Node) -> tuple[Node, Node] | Literal[False]:
    """The amounts, the answer's in the gold's units; a unit that one side leaves out says nothing, words for different
    things (`5 apples`, `5 pears`) say nothing either. False where the units measure different things."""
    (wanted, gold_units), (found, answer_units) = split_unit(gold), split_unit(answer)
    if not gold_units or not answer_units:
        return wanted, found
    factor = conversion(gold_units, answer_units)
    if factor is None:
        known = [
            {name for unit in units for name, _ in factors(unit) if name in UNITS}
            for units in (gold_units, answer_units)
        ]
        return (wanted, found) if not (known[0] and known[1] and known[0] != known[1]) else (gold, answer)
    if not factor:
        return False
    return wanted, found if factor == 1 else Op("mul", (found, Num(factor)))


def _same_letters(gold: Node, answer: Node) -> tuple[Node, Node]:
    """Both expressions with one letter for the imaginary unit, the constant of integration, the integer of a period,
    where each names it in its own way."""
    only_gold, only_answer = free_names(gold) - free_names(answer), free_names(answer) - free_names(gold)
    if len(only_answer) == 1 and not only_gold and traits(gold).imaginary and not traits(answer).imaginary:
        (name,) = only_answer
        return gold, substitute(answer, name, Sym("i")) if name in ("j", "I") and isinstance(answer, Op) else answer
    if len(only_gold) != 1 or len(only_answer) != 1:
        return gold, answer
    (wanted,), (found,) = only_gold, only_answer
    constants = wanted in CONSTANTS_OF_INTEGRATION and found in CONSTANTS_OF_INTEGRATION
    integers = wanted in PERIOD_LETTERS and found in PERIOD_LETTERS and _is_period(gold, wanted)
    if (constants and _is_summand(gold, wanted)) or integers:
        return gold, substitute(answer, found, Sym(wanted))
    return gold, answer


def _is_summand(node: Node, name: str) -> bool:
    return isinstance(node, Op) and node.name == "add" and Sym(name) in node.args


def _is_period(node: Node, name: str) -> bool:
    """Whether a letter counts periods: a summand of pi, or of 360 or 180 degrees, times it."""
    return (
        isinstance(node, Op)
        and node.name in ("add", "mul")
        and {name, "pi"} <= {part.name for part in walk(node) if isinstance(part, Sym)}
    )


def substitute(node: Node, name: str, value: Node) -> Node:
    """The node with another node for a variable."""
    match node:
        case Sym(found) if found == name:
            return value
        case Op(operation, args):
            return Op(operation, tuple(substitute(arg, name, value) for arg in args))
        case _:
            return node


def _letters(node: Node) -> str | None:
    """The word that a product of letters spells."""
    match node:
        case Sym(name):
            return name if re.fullmatch("[A-Za-z]+", name) else None
        case Op("mul", (left, right)):
            a, b = _letters(left), _letters(right)
            return None if a is None or b is None else a + b
        case _:
            return None


def _same_values(gold: Node, answer: Node, wanted: Number | None, found: Number | None) -> bool | None:
    """Whether two expressions have the same values; at points where only one is defined or real, neither counts."""
    names = free_names(gold) | free_names(answer)
    imaginary = traits(gold).imaginary or traits(answer).imaginary
    if _integrand(gold) is not None or _integrand(answer) is not None:
        verdict = _compare_antiderivatives(gold, answer)
        if verdict is not None:
            return verdict
    undecided = None if traits(gold).calculus or traits(answer).calculus else False
    met = 0
    for place in range(len(points(names))):
        a, b = value_at(gold, names, place), value_at(answer, names, place)
        if a == "uncountable" or b == "uncountable":
            return _same_prints(gold, answer, names)
        if a == "extreme" or b == "extreme":
            return None if a == b else False
        if isinstance(a, str) or isinstance(b, str) or (names and not imaginary and (_is_complex(a) or _is_complex(b))):
            continue
        met += 1
        if near(a, b) and _beyond_digits(a) and _beyond_digits(b):
            return None
        if near(a, b) or (
            not names
            and not _is_complex(a)
            and not _is_complex(b)
            and numbers_equal(wanted or _as_number(a), found or _as_number(b))
        ):
            continue
        return undecided
    if met >= (2 if names else 1):
        return True
    return undecided if undecided is None else _same_prints(gold, answer, names)


def _beyond_digits(value: Value) -> bool:
    """Whether a value is so large that fifty digits do not show its units: what is added to it may be lost."""
    return not isinstance(value, Fraction) and not MP.isinf(value) and MP.mag(value) > MAX_SHOWN_BITS


def _integrand(node: Node) -> tuple[str, Node] | None:
    """The variable and integrand of a single indefinite integral standing alone; None for any other node."""
    match node:
        case Op(name, (body,)) if name.startswith("integral:int:@") and "," not in name:
            return name[len("integral:int:@") :], body
        case _:
            return None


def _compare_antiderivatives(gold: Node, answer: Node) -> bool | None:
    """Grade two indefinite integrals by their integrands, and one against an antiderivative; None otherwise."""
    wanted, found = _integrand(gold), _integrand(answer)
    if wanted is not None and found is not None:
        differentials = [{f"@{variable}": Fraction(1)} for variable, _ in (wanted, found)]
        names = free_names(gold) | free_names(answer)
        same = wanted[0] == found[0]
        return same and all(
            Evaluator({**point, **differentials[0]}).fingerprint(wanted[1])
            == Evaluator({**point, **differentials[1]}).fingerprint(found[1])
            for point in points(names | {wanted[0]})
        )
    integral, other = (wanted, answer) if wanted is not None else (found, gold)
    return None if integral is None or traits(other).calculus else _is_derivative(*integral, other)


def _is_derivative(variable: str, integrand: Node, other: Node) -> bool | None:
    """Whether `other` has the integrand as its derivative, so that it is an antiderivative up to a constant."""
    met = 0
    for point in points(free_names(integrand) | free_names(other) | {variable}):

        def at(place: Value, point: Mapping[str, Value] = point) -> Value:
            return to_mp(Evaluator({**point, variable: place}).value(other))

        try:
            slope = MP.diff(at, to_mp(point[variable]))
            height = to_mp(Evaluator({**point, f"@{variable}": Fraction(1)}).value(integrand))
        except (Undefined, Extreme, Uncountable):
            continue
        met += 1
        if abs(slope - height) > SLOPE_TOLERANCE * max(abs(slope), abs(height), 1):
            return False
    return True if met >= 2 else None


@lru_cache(maxsize=8192)
def value_at(node: Node, names: frozenset[str], place: int) -> Value | Literal["undefined", "extreme", "uncountable"]:
    """An expression's value at one of `points`, or why it has none."""
    try:
        return Evaluator(points(names)[place]).value(node)
    except Undefined:
        return "undefined"
    except Extreme:
        return "extreme"
    except Uncountable:
        return "uncountable"


def _same_prints(gold: Node, answer: Node, names: frozenset[str]) -> bool | None:
    """As a last resort, structures agree part by part."""
    try:
        return all(
            Evaluator(point).fingerprint(gold) == Evaluator(point).fingerprint(answer) for point in points(names)
        )
    except (Undefined, Extreme, Uncountable):
        return None if traits(gold).calculus or traits(answer).calculus else False


def _is_complex(value: Value) -> bool:
    return isinstance(value, MP.mpc) and abs(value.imag) > TOLERANCE * max(abs(value), 1)


def _as_number(value: Value) -> Number:
    """A computed value as an exact number."""
    if isinstance(value, Fraction):
        return Number(value)
    real = MP.re(value)
    if MP.isinf(real) or MP.isnan(real):
        return Number(Fraction(10) ** 400 * (1 if real > 0 else -1))
    sign, mantissa, exponent, _ = real._mpf_
    if abs(exponent) > 20_000:
        return Number(Fraction(10) ** 400)
    return Number(Fraction(int(mantissa)) * Fraction(2) ** exponent * (-1 if sign else 1))
