"""Units beside an amount: what is one, and how much of it one unit is of another."""

import re
from collections.abc import Iterator
from fractions import Fraction

from services.verifier.grading.syntax import Node, Num, Op, Sym, Text, walk
from services.verifier.grading.vocabulary import GREEK, MAGNITUDES

CONSTANT_NAMES = frozenset(["pi", "e", "i", "infinity", "nan", "...", *MAGNITUDES])

AMOUNT = re.compile(
    r"\b(?:half|halves|thirds?|quarters?|fourths?|fifths?|hundreds?|thousands?|millions?|billions?|trillions?|dozens?"
    r"|pairs?|plus|minus|times|squared|cubed|January|February|March|April|May|June|July|August|September|October"
    r"|November|December)\b",
    re.IGNORECASE,
)
"""Words that change an amount or name something else than an amount."""

BOUND = re.compile(
    r"\b(?:less|more|fewer|greater|smaller|larger|least|most|below|above|under|over|between|not|never|negative|minus)\b",
    re.I,
)
"""Words before an amount that make it another: `more than 12` is not `12`, and `12 more` is."""

UNITS = frozenset(
    "mm cm dm m km in ft yd mi mg g kg lb oz s sec ms min h hr hrs ml mL L l J kJ N kN W kW MW V kV A mA"
    " K C F Hz kHz MHz GHz Pa kPa MPa GPa mol mmol eV keV MeV GeV mph kmh"
    " rad deg sr cc ha bar atm cal kcal nm um T Wb ohm dB rpm bps kbps Mbps Gbps ns us ly pc AU USD EUR cents"
    " sq cu".split()
)

_SCALES = {
    "length": "mm 1/1000, cm 1/100, dm 1/10, m meter meters metre metres 1, km kilometer kilometers kilometre 1000"
    ", in inch inches 127/5000, ft foot feet 381/1250, yd yard yards 1143/1250, mi mile miles 201168/125",
    "mass": "mg 1/1000, g gram grams 1, kg kilogram kilograms 1000",
    "time": "ms 1/1000, s sec second seconds 1, min minute minutes 60, h hr hrs hour hours 3600, day days 86400"
    ", week weeks 604800",
    "volume": "mL ml milliliter milliliters 1/1000, L l liter liters litre litres 1",
    "force": "N 1, kN 1000, MN 1000000",
    "energy": "J 1, kJ 1000, MJ 1000000",
    "power": "mW 1/1000, W 1, kW 1000, MW 1000000",
    "voltage": "mV 1/1000, V 1, kV 1000",
    "current": "mA 1/1000, A 1",
    "frequency": "Hz 1, kHz 1000, MHz 1000000, GHz 1000000000",
    "pressure": "Pa 1, kPa 1000, MPa 1000000, GPa 1000000000",
    "money": "cent cents \\cent ¢ 1/100, dollar dollars USD 1",
}
SCALES = {
    name: (dimension, Fraction(factor))
    for dimension, scale in _SCALES.items()
    for *names, factor in map(str.split, scale.split(","))
    for name in names
}
"""Units that convert into each other: their dimension, and their size in its base unit."""
COMPOUND = re.compile(
    r"(\d+)\s*(?:\\(?:text|mathrm)\s*\{\s*)?([A-Za-z]+),?[\s}]+(?:and[\s}]+)?"
    r"(\d+(?:\.\d+)?)\s*(?:\\(?:text|mathrm)\s*\{\s*)?([A-Za-z]+)[\s}]*"
)


def is_unit(node: Node) -> bool:
    """Whether a node may be a unit: a known symbol, a word, a power or quotient of units."""
    match node:
        case Text(words):
            return not AMOUNT.search(words)
        case Sym(name):
            return name in UNITS or (
                len(name) > 2
                and name.isalpha()
                and name not in GREEK
                and name not in CONSTANT_NAMES
                and not AMOUNT.fullmatch(name)
            )
        case Op("pow", (base, Num())) | Op("pow", (base, Op("neg", (Num(),)))):
            return is_unit(base)
        case Op("mul", (Sym("mu"), unit)):
            return is_unit(unit)
        case Op("mul", (Sym(a), Sym(b))) if a + b in UNITS:
            return True
        case Op("mul" | "div", args):
            return all(is_unit(arg) for arg in args)
        case _:
            return False


def split_unit(node: Node) -> tuple[Node, tuple[Node, ...]]:
    """The amount of `5 cm`, `5 m/s`, `64 square feet`, `about 5`, and its units; other nodes as they are."""
    match node:
        case Op("mul", (Op("mul", (amount, Sym("mu" as prefix))), unit)) if is_unit(unit):
            return amount, (Op("mul", (Sym(prefix), unit)),)
        case Op("mul", (amount, Sym("Omega" as unit))) if not is_unit(amount) and isinstance(amount, Num):
            return amount, (Sym(unit),)
        case Op("mul" | "div" as name, (amount, unit)) if is_unit(unit) and not is_unit(amount):
            inner, units = split_unit(amount)
            return inner, (*units, unit if name == "mul" else Op("div", (Num(Fraction(1)), unit)))
        case Op("mul", (word, amount)) if (
            is_unit(word)
            and not is_unit(amount)
            and not (isinstance(word, Sym) and len(word.name) < 3)
            and not any(BOUND.search(name) for name, _ in factors(word))
        ):
            inner, units = split_unit(amount)
            return inner, (word, *units)
        case Op("neg", (inner,)):
            amount, units = split_unit(inner)
            return (node, ()) if not units else (Op("neg", (amount,)), units)
        case Op("percent" | "ratio" as name, (*rest, last)):
            amount, units = split_unit(last)
            return (node, ()) if not units else (Op(name, (*rest, amount)), units)
        case _:
            return node, ()


def in_one_unit(text: str) -> str:
    """`1 hour 30 minutes` as `90 minutes`; any other text as it is."""
    match = COMPOUND.fullmatch(text)
    if match is None or match[2] not in SCALES or match[4] not in SCALES:
        return text
    (dimension, large), (other, small) = SCALES[match[2]], SCALES[match[4]]
    if dimension != other or large <= small:
        return text
    return f"{Fraction(match[1]) * large / small + Fraction(match[3])} {match[4]}"


def is_quantity(node: Node) -> bool:
    """Whether a node is an amount of units that are known, so that its number alone does not say it."""
    amount, units = split_unit(node)
    symbols = [part for part in walk(amount) if isinstance(part, Sym | Text)]
    plain = all(isinstance(symbol, Sym) and symbol.name in CONSTANT_NAMES for symbol in symbols)
    return plain and bool(units) and all(name in UNITS or name in SCALES for unit in units for name, _ in factors(unit))


def conversion(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> Fraction | None:
    """How many of the gold's units one of the answer's is: 0 where they measure different things, None where either is
    not in `SCALES`, so that nothing can be said."""
    wanted, found = _measure(gold), _measure(answer)
    if wanted is None or found is None:
        return None
    return found[1] / wanted[1] if wanted[0] == found[0] else Fraction(0)


def _measure(units: tuple[Node, ...]) -> tuple[tuple[tuple[str, int], ...], Fraction] | None:
    """Dimensions with their powers, and the size in base units."""
    powers: dict[str, int] = {}
    size = Fraction(1)
    for name, power in (part for unit in units for part in factors(unit)):
        if name not in SCALES:
            return None
        dimension, scale = SCALES[name]
        powers[dimension] = powers.get(dimension, 0) + power
        size *= scale**power
    return (tuple(sorted(powers.items())), size) if powers else None


def factors(unit: Node, power: int = 1) -> Iterator[tuple[str, int]]:
    """The names of a unit and their powers; "" for what has none."""
    match unit:
        case Sym(name) | Text(name):
            yield name, power
        case Num():
            return
        case Op("pow", (base, Num(exponent))) if exponent.denominator == 1 and abs(exponent) < 10:
            yield from factors(base, power * int(exponent))
        case Op("pow", (base, Op("neg", (Num(exponent),)))) if exponent.denominator == 1 and abs(exponent) < 10:
            yield from factors(base, -power * int(exponent))
        case Op("mul", (Sym(a), Sym(b))) if a + b in UNITS:
            yield a + b, power
        case Op("mul", (left, right)):
            yield from factors(left, power)
            yield from factors(right, power)
        case Op("div", (left, right)):
            yield from factors(left, power)
            yield from factors(right, -power)
        case _:
            yield "", power
