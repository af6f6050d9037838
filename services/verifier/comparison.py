"""Whether two parsed answers are the same answer.

`compare` answers True, False, or None where an integral, a limit or the like leaves it to computer algebra. A gold
answer rules how the other is read: an assignment `x = 2` also answers `2`, a bare list answers in any order, an
interval answers an inequality.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from services.verifier.cost import spend
from services.verifier.evaluation import MP, TOLERANCE, Evaluator, Extreme, Uncountable, Undefined, near, points, to_mp
from services.verifier.math_exact import Number, numbers_equal
from services.verifier.real_sets import FLIPPED, is_set_like, real_set, sets_equal
from services.verifier.syntax import Group, Matrix, Node, Num, Op, Relation, Sym, Text, walk
from services.verifier.vocabulary import GREEK, MAGNITUDES

if TYPE_CHECKING:
    from services.verifier.evaluation import Value

CONSTANT_NAMES = frozenset(["pi", "e", "i", "infinity", "nan", "...", *MAGNITUDES])
AMOUNT = re.compile(
    r"\b(?:half|halves|thirds?|quarters?|fourths?|fifths?|hundreds?|thousands?|millions?|billions?|trillions?|dozens?|pairs?|plus|minus|times|squared|cubed)\b"
)
UNITS = frozenset(
    "mm cm dm m km in ft yd mi mg g kg lb oz s sec ms min h hr hrs ml mL L l J kJ N kN W kW MW V kV A mA K C F Hz kHz MHz GHz Pa kPa MPa GPa mol mmol eV keV MeV GeV mph kmh"
    " rad deg sr cc ha bar atm cal kcal nm um T Wb ohm dB rpm bps kbps Mbps Gbps ns us ly pc AU USD EUR cents".split()
)
MAX_ITEMS = 64


def compare(gold: Node, answer: Node) -> bool | None:
    """Whether `answer` is `gold`; None where only computer algebra could tell."""
    spend(4)
    gold, answer = _settled(gold), _settled(answer)
    if gold == answer:
        return not _is_ellipsis(gold) or None
    verdicts = (
        [_compare_relations(gold, answer)]
        if isinstance(gold, Relation) or isinstance(answer, Relation)
        else [_compare_plain(gold, answer)]
    )
    if verdicts[0] is not True and (is_set_like(gold) or is_set_like(answer)):
        wanted, found = real_set(gold), real_set(answer)
        if wanted is not None and found is not None:
            verdicts.append(sets_equal(wanted, found))
    return True if True in verdicts else None if None in verdicts else False


def _is_ellipsis(node: Node) -> bool:
    return node == Sym("...")


def _settled(node: Node) -> Node:
    r"""The node with membership reduced to its set, `\pm` written out, and a reversed assignment turned round."""
    match node:
        case Relation(("in",), (_, inside)):
            return _settled(inside)
        case Relation(("=",), (left, right)) if _is_label(right) and not _is_label(left):
            return Relation(("=",), (right, _settled(left)))
        case Relation(("=" | "~", *_) as signs, (label, *rest)) if _is_label(label) and len(rest) == 1:
            return Relation(("=",), (label, _settled(rest[0]))) if signs else node
        case Group("bare", items):
            flat: list[Node] = []
            for item in items:
                settled = _settled(item)
                flat.extend(settled.items if isinstance(settled, Group) and settled.kind == "bare" else [settled])
            return Group("bare", tuple(_inherit_label(flat)))
        case Group("set", items):
            flat = []
            for item in items:
                flat.extend(_signs(item))
            return Group("set", tuple(flat))
        case Relation() | Matrix() | Group():
            return node
        case _:
            variants = _signs(node)
            return Group("bare", tuple(variants)) if len(variants) > 1 else node


def _inherit_label(items: list[Node]) -> list[Node]:
    """`n = 2, 3, 4` labels every item."""
    match items:
        case [Relation(("=",), (Sym() as label, _)), *rest] if rest and not any(
            isinstance(item, Relation) for item in rest
        ):
            return [items[0], *(Relation(("=",), (label, item)) for item in rest)]
        case _:
            return items


def _signs(node: Node) -> list[Node]:
    r"""Both readings of an expression with `\pm` or `\mp`."""
    if not any(isinstance(part, Op) and part.name in ("pm", "mp") for part in walk(node)):
        return [node]
    return [_choose(node, True), _choose(node, False)]


def _choose(node: Node, plus: bool) -> Node:
    match node:
        case Op("pm" | "mp" as name, (inner,)):
            inner = _choose(inner, plus)
            return inner if plus == (name == "pm") else Op("neg", (inner,))
        case Op(name, args):
            return Op(name, tuple(_choose(arg, plus) for arg in args))
        case Relation(signs, sides):
            return Relation(signs, tuple(_choose(side, plus) for side in sides))
        case Group(kind, items):
            return Group(kind, tuple(_choose(item, plus) for item in items))
        case _:
            return node


# -- relations -----------------------------------------------------------------------------------------------------------


def _is_label(node: Node) -> bool:
    """Whether a node is a name to which a value is given: a variable, `f(x)`, `AB`, words, a tuple of variables."""
    match node:
        case Sym(name):
            return name not in CONSTANT_NAMES
        case Text():
            return True
        case Op(name, args):
            if name.startswith(
                (
                    "apply:",
                    "accent:",
                    "sub:",
                    "prime",
                    "norm",
                    "derivative",
                    "tr",
                    "rank",
                    "det",
                    "Pr",
                    "Var",
                    "dim",
                    "deg",
                    "integral",
                    "limit",
                    "gcd",
                    "lcm",
                    "max",
                    "min",
                    "arg",
                )
            ):
                return True
            return name in ("mul", "div", "ratio") and all(
                _is_label(arg) and not isinstance(arg, Group) for arg in args
            )
        case Group("tuple", items):
            return bool(items) and all(_is_label(item) for item in items)
        case _:
            return False


def _labels_agree(gold: Node, answer: Node) -> bool:
    return gold == answer or _word(gold) == _word(answer) or not (isinstance(gold, Sym) and isinstance(answer, Sym))


def _word(node: Node) -> str:
    match node:
        case Sym(name):
            return name
        case Text(words):
            return words.lower()
        case _:
            return repr(node)


def _compare_relations(gold: Node, answer: Node) -> bool | None:
    match gold, answer:
        case Relation(), Relation():
            return _compare_both_relations(gold, answer)
        case Relation(("=", *_) as signs, (label, *_, value)), _ if set(signs) <= {"=", "~"}:
            if _is_label(label) or _is_constant(label) or len(signs) > 1:
                return compare(value, answer)
            return False
        case _, Relation(signs, (label, *_, value)) if signs and set(signs) <= {"=", "~"}:
            value = (
                Relation(signs, answer.sides).sides[-2] if signs[-1] == "~" and isinstance(answer, Relation) else value
            )
            verdict = compare(gold, value)
            if verdict is True and not (_is_label(label) or _is_constant(value)):
                return False
            if verdict is not True and _is_constant(label) and len(signs) == 1 and not _is_constant(gold):
                return verdict
            return verdict
        case _:
            return False


def _compare_both_relations(gold: Relation, answer: Relation) -> bool | None:
    chains = [set(side.signs) <= {"=", "~"} for side in (gold, answer)]
    if all(chains):
        if _is_label(gold.sides[0]) and _is_label(answer.sides[0]) and _labels_agree(gold.sides[0], answer.sides[0]):
            verdict = compare(gold.sides[-1], answer.sides[-1])
            if verdict is not False:
                return verdict
        if len(gold.sides) == 2 and len(answer.sides) == 2:
            return _proportional(_difference(gold), _difference(answer), positive=False)
        if len(answer.sides) > 2:
            return compare(gold, Relation(("=",), (answer.sides[0], answer.sides[-1])))
        return False
    if len(gold.signs) == len(answer.signs):
        if gold.signs == answer.signs and _all(compare(g, a) for g, a in zip(gold.sides, answer.sides, strict=True)):
            return True
        turned = answer.signs[::-1]
        if all(sign in FLIPPED for sign in turned) and gold.signs == tuple(FLIPPED[sign] for sign in turned):
            if _all(compare(g, a) for g, a in zip(gold.sides, answer.sides[::-1], strict=True)):
                return True
    match gold, answer:
        case Relation((sign,), _), Relation((other,), _) if sign in FLIPPED and other in FLIPPED:
            left, right = _difference(gold), _difference(answer)
            if sign == other and _proportional(left, right, positive=sign != "!=") is True:
                return True
            if sign == FLIPPED[other] and _proportional(left, Op("neg", (right,)), positive=sign != "!=") is True:
                return True
            return False
        case _:
            return False


def _difference(relation: Relation) -> Node:
    return Op("add", (relation.sides[0], Op("neg", (relation.sides[1],))))


def _proportional(gold: Node, answer: Node, *, positive: bool) -> bool | None:
    """Whether two expressions differ by a constant factor other than 0 (above 0 where `positive`)."""
    names = free_names(gold)
    if not names or names != free_names(answer):
        return False
    ratios: list[Value] = []
    for point in points(names):
        try:
            evaluator = Evaluator(point)
            a, b = evaluator.value(gold), evaluator.value(answer)
            if near(b, Fraction(0)) or near(a, Fraction(0)):
                if near(b, Fraction(0)) != near(a, Fraction(0)):
                    return False
                continue
            ratio = to_mp(a) / to_mp(b)
        except (Undefined, Uncountable):
            continue
        ratios.append(ratio)
    if len(ratios) < 2 or not all(near(ratio, ratios[0]) for ratio in ratios):
        return False
    return not positive or bool(abs(MP.im(ratios[0])) < TOLERANCE and MP.re(ratios[0]) > 0)


# -- everything else -------------------------------------------------------------------------------------------------


def _compare_plain(gold: Node, answer: Node) -> bool | None:
    match gold, answer:
        case Matrix(), _ if _is_vector(gold) and isinstance(answer, Group):
            return _ordered(_entries(gold), answer.items)
        case _, Matrix() if _is_vector(answer) and isinstance(gold, Group):
            return _ordered(gold.items, _entries(answer))
        case Matrix(wanted), Matrix(found):
            if _is_vector(gold) and _is_vector(answer):
                return _ordered(_entries(gold), _entries(answer))
            if len(wanted) != len(found) or len(wanted[0]) != len(found[0]):
                return False
            return _all(
                compare(g, a) for row, other in zip(wanted, found, strict=True) for g, a in zip(row, other, strict=True)
            )
        case Matrix(rows), Group("list" | "tuple", items) | Group("list", (Group("list", items),)) if all(
            isinstance(item, Group) for item in items
        ):
            return (
                compare(gold, Matrix(tuple(item.items for item in items if isinstance(item, Group))))
                if _is_table(items)
                else False
            )
        case Group("list", items), Matrix() if _is_table(items):
            return compare(Matrix(tuple(item.items for item in items if isinstance(item, Group))), answer)
        case Group("list", (single,)), Matrix():
            return compare(single, answer)
        case Matrix(), Group("list", (single,)):
            return compare(gold, single)
        case Group(), Group():
            return _compare_groups(gold, answer)
        case Group(_, (single,)), _:
            return compare(single, answer)
        case _, Group(_, (single,)):
            return compare(gold, single)
        case Op("ratio", wanted), Op("ratio", found) if len(wanted) == len(found) > 2:
            return _proportions(wanted, found)
        case Op("cases", wanted), Op("cases", found):
            return _unordered(wanted, found)
        case Group() | Matrix(), _:
            return False
        case _, Group() | Matrix():
            return False
        case _:
            return _compare_scalars(gold, answer)


def _is_table(items: Sequence[Node]) -> bool:
    widths = {len(item.items) if isinstance(item, Group) and item.kind in ("list", "tuple") else -1 for item in items}
    return len(widths) == 1 and -1 not in widths


def _is_vector(matrix: Matrix) -> bool:
    return len(matrix.rows) == 1 or len(matrix.rows[0]) == 1


def _entries(matrix: Matrix) -> tuple[Node, ...]:
    return tuple(cell for row in matrix.rows for cell in row)


def _proportions(wanted: Sequence[Node], found: Sequence[Node]) -> bool | None:
    first, other = wanted[0], found[0]
    return _all(compare(Op("div", (g, first)), Op("div", (a, other))) for g, a in zip(wanted, found, strict=True))


def _compare_groups(gold: Group, answer: Group) -> bool | None:
    if len(gold.items) > MAX_ITEMS or len(answer.items) > MAX_ITEMS:
        return gold == answer
    if len(gold.items) == 1 and len(answer.items) == 1:
        return compare(gold.items[0], answer.items[0])
    if len(gold.items) == 1 and isinstance(gold.items[0], Group):
        return compare(gold.items[0], answer)
    if len(answer.items) == 1 and isinstance(answer.items[0], Group):
        return compare(gold, answer.items[0])
    if any(_is_ellipsis(item) for item in (*gold.items, *answer.items)):
        return False if gold != answer else None
    kinds = {gold.kind, answer.kind}
    if gold.kind == answer.kind == "builder":
        return _all(compare(g, a) for g, a in zip(gold.items, answer.items, strict=True))
    if "builder" in kinds or ({"(]", "[)"} & kinds and len(kinds) > 1):
        return False
    if kinds == {"tuple", "list"} and len(gold.items) == 2:
        return False
    if "set" in kinds and kinds != {"set", "tuple"}:
        if len(gold.items) == len(answer.items) and (verdict := _unordered(gold.items, answer.items)) is not False:
            return verdict
        return len(gold.items) != len(answer.items) and _unordered(_distinct(gold.items), _distinct(answer.items))
    if kinds == {"bare"}:
        return _compare_lists(gold.items, answer.items)
    if gold.kind == "bare":
        ordered = _ordered(_values(gold.items), answer.items)
        return (
            ordered if ordered is not False else _unordered(gold.items, answer.items) if answer.kind == "set" else False
        )
    return _ordered(gold.items, _values(answer.items))


def _values(items: Sequence[Node]) -> tuple[Node, ...]:
    """The values of labelled items; the items themselves where any has no label."""
    values = [
        item.sides[-1]
        for item in items
        if isinstance(item, Relation) and set(item.signs) <= {"=", "~"} and _is_label(item.sides[0])
    ]
    return tuple(values) if len(values) == len(items) else tuple(items)


def _label_names(items: Sequence[Node]) -> list[str]:
    return [_word(item.sides[0]) for item in items if isinstance(item, Relation) and _is_label(item.sides[0])]


def _compare_lists(gold: Sequence[Node], answer: Sequence[Node]) -> bool | None:
    """Bare lists: in any order; distinct labels on both sides must agree."""
    if len(gold) != len(answer):
        return False
    wanted, found = _label_names(gold), _label_names(answer)
    if len(wanted) == len(gold) and len(found) == len(answer):
        if sorted(wanted) == sorted(found) or len({_stem(name) for name in wanted}) > 1:
            return _unordered(gold, answer)
        if {_stem(name) for name in wanted} != {_stem(name) for name in found}:
            return False
        return _unordered(_values(gold), _values(answer))
    if len(wanted) == len(gold) and len(set(wanted)) == len(wanted) and len({_stem(name) for name in wanted}) > 1:
        return _ordered(_values(gold), answer)
    if len(found) == len(answer) and len(set(found)) == len(found) and len({_stem(name) for name in found}) > 1:
        return _unordered(gold, _values(answer))
    return _unordered(_values(gold), _values(answer))


def _stem(name: str) -> str:
    return name.partition("_")[0]


def _distinct(items: Sequence[Node]) -> list[Node]:
    distinct: list[Node] = []
    for item in items:
        if not any(compare(other, item) is True for other in distinct):
            distinct.append(item)
    return distinct


def _ordered(gold: Sequence[Node], answer: Sequence[Node]) -> bool | None:
    if len(gold) != len(answer) or len(gold) > MAX_ITEMS:
        return False
    return _all(compare(g, a) for g, a in zip(gold, answer, strict=True))


def _unordered(gold: Sequence[Node], answer: Sequence[Node]) -> bool | None:
    """Whether each gold item has an answer's item of its own."""
    if len(gold) != len(answer) or len(gold) > MAX_ITEMS:
        return False
    left = list(answer)
    unknown = False
    for wanted in gold:
        perhaps: int | None = None
        for place, found in enumerate(left):
            verdict = compare(wanted, found)
            if verdict:
                del left[place]
                break
            perhaps = place if verdict is None and perhaps is None else perhaps
        else:
            if perhaps is None:
                return False
            unknown = True
            del left[perhaps]
    return None if unknown else True


def _all(verdicts: "object") -> bool | None:
    unknown = False
    for verdict in verdicts:  # type: ignore[attr-defined]
        if verdict is False:
            return False
        unknown = unknown or verdict is None
    return None if unknown else True


# -- scalars ---------------------------------------------------------------------------------------------------------


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
            case Op(name, _):
                calculus = calculus or name.startswith(("integral:", "limit:", "derivative", "series:"))
            case _:
                pass
    free = frozenset(name for name in names if name not in CONSTANT_NAMES and not name.startswith("@"))
    return Traits(free, "i" in names, calculus, words, "..." in names)


def free_names(node: Node) -> frozenset[str]:
    """The variables of an expression; bound ones too."""
    return traits(node).names


def _is_constant(node: Node) -> bool:
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
                else Number(number.value / 100, None if number.digits is None else number.digits + 2, True)
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
            return Number(above.value / below.value)
        case Group(_, (single,)):
            return literal(single)
        case _:
            return None


def _unit_like(node: Node) -> bool:
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
            return _unit_like(base)
        case Op("mul" | "div", args):
            return all(_unit_like(arg) for arg in args)
        case _:
            return False


def without_unit(node: Node) -> Node:
    """The number of `5 cm`, `5 m/s`, `64 square feet`, `about 5`; other nodes as they are."""
    match node:
        case Op("mul", (amount, unit)) if _unit_like(unit) and not _unit_like(amount):
            return without_unit(amount)
        case Op("mul", (word, amount)) if (
            _unit_like(word) and not _unit_like(amount) and not (isinstance(word, Sym) and len(word.name) < 3)
        ):
            return without_unit(amount)
        case Op("mul", (amount, Op("mul", (Sym(a), Sym(b))))) if a + b in UNITS:
            return without_unit(amount)
        case Op("div", (amount, unit)) if _unit_like(unit) and not _unit_like(amount):
            return without_unit(amount)
        case Op("neg", (inner,)):
            stripped = without_unit(inner)
            return node if stripped is inner else Op("neg", (stripped,))
        case Op("percent" | "ratio" as name, (*rest, last)):
            return Op(name, (*rest, without_unit(last)))
        case _:
            return node


def _compare_scalars(gold: Node, answer: Node) -> bool | None:
    if free_names(gold) != free_names(answer) or traits(gold).words or traits(answer).words:
        bare_gold, bare_answer = without_unit(gold), without_unit(answer)
        if (bare_gold is not gold or bare_answer is not answer) and _units_agree(gold, bare_gold, answer, bare_answer):
            gold, answer = bare_gold, bare_answer
    wanted, found = literal(gold), literal(answer)
    if wanted is not None and found is not None:
        return numbers_equal(wanted, found)
    match gold, answer:
        case (Sym(), Sym()) | (Sym(), Op("mul", _)) | (Op("mul", _), Sym()):
            names = _letters(gold), _letters(answer)
            if None not in names and len(names[0] or "") > 1 and (names[0] or "").lower() == (names[1] or "").lower():
                return True
        case Op(name, (Num(digits),)), Num(plain) if name.startswith("sub:"):
            return digits == plain
        case _:
            pass
    if traits(gold).ellipsis or traits(answer).ellipsis:
        return False
    return _same_values(gold, answer, wanted, found)


def _units_agree(gold: Node, bare_gold: Node, answer: Node, bare_answer: Node) -> bool:
    """Units that only one side has, or that both spell in words, are left out; two different unit symbols are not."""
    if bare_gold is gold or bare_answer is answer:
        return True
    known = [
        {part.name for part in walk(node) if isinstance(part, Sym) and part.name in UNITS}
        | {part.words for part in walk(node) if isinstance(part, Text) and part.words in UNITS}
        for node in (gold, answer)
    ]
    return not (known[0] and known[1] and known[0] != known[1])


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
    undecided = None if traits(gold).calculus or traits(answer).calculus else False
    met = 0
    for place in range(len(points(names))):
        a, b = _value_at(gold, names, place), _value_at(answer, names, place)
        if a == "uncountable" or b == "uncountable":
            return _same_prints(gold, answer, names)
        if a == "extreme" or b == "extreme":
            return None if a == b else False
        if isinstance(a, str) or isinstance(b, str) or (names and not imaginary and (_is_complex(a) or _is_complex(b))):
            continue
        met += 1
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


@lru_cache(maxsize=8192)
def _value_at(
    node: Node, names: frozenset[str], place: int
) -> "Value | Literal['undefined', 'extreme', 'uncountable']":
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


def _is_complex(value: "Value") -> bool:
    return isinstance(value, MP.mpc) and abs(value.imag) > TOLERANCE * max(abs(value), 1)


def _as_number(value: "Value") -> Number:
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
