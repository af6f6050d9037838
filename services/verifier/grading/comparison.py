"""Whether two parsed answers are the same answer.

`compare` answers True, False, or None where an integral, a limit or the like leaves it to computer algebra. A gold
answer rules how the other is read: an assignment `x = 2` also answers `2`, a bare list answers in any order, an
interval answers an inequality.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction

from services.verifier.grading.cost import spend
from services.verifier.grading.evaluation import Evaluator, Uncountable, points
from services.verifier.grading.real_sets import FLIPPED, is_set_like, real_set, sets_equal
from services.verifier.grading.scalars import compare_scalars, free_names, is_constant
from services.verifier.grading.settling import is_label, settled, word_of
from services.verifier.grading.syntax import Group, Matrix, Node, Op, Relation, Sym
from services.verifier.grading.values import MP, TOLERANCE, Undefined, Value, near, to_mp

MAX_ITEMS = 64
COORDINATES = {Sym("x"), Sym("y"), Sym("z")}


def compare(gold: Node, answer: Node) -> bool | None:
    """Whether `answer` is `gold`; None where only computer algebra could tell."""
    spend(4)
    gold, answer = settled(gold), settled(answer)
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


def _labels_agree(gold: Node, answer: Node) -> bool:
    """Whether two labels may name the same thing: words and functions may differ, variables must be the same."""
    named = all(
        isinstance(label, Sym) or (isinstance(label, Op) and label.name in ("mul", "add")) for label in (gold, answer)
    )
    return gold == answer or word_of(gold) == word_of(answer) or not named


def _compare_relations(gold: Node, answer: Node) -> bool | None:
    match gold, answer:
        case Relation(), Relation():
            return _compare_both_relations(gold, answer)
        case Relation(("=", *_) as signs, (label, *_, value)), _ if set(signs) <= {"=", "~"}:
            if is_label(label) or is_constant(label) or len(signs) > 1:
                return compare(value, answer)
            return False
        case _, Relation(signs, (label, *_, value)) if signs and set(signs) <= {"=", "~"}:
            if not (is_label(label) or is_constant(label)):
                return False
            exact = answer.sides[-2] if signs[-1] == "~" else value
            return compare(gold, exact)
        case _:
            return False


def _compare_both_relations(gold: Relation, answer: Relation) -> bool | None:
    chains = [set(side.signs) <= {"=", "~"} for side in (gold, answer)]
    if all(chains):
        if is_label(gold.sides[0]) and is_label(answer.sides[0]) and _labels_agree(gold.sides[0], answer.sides[0]):
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
        mirrored = all(sign in FLIPPED for sign in turned) and gold.signs == tuple(FLIPPED[sign] for sign in turned)
        if mirrored and _all(compare(g, a) for g, a in zip(gold.sides, answer.sides[::-1], strict=True)):
            return True
    match gold, answer:
        case Relation((sign,), _), Relation((other,), _) if sign in FLIPPED and other in FLIPPED:
            left, right = _difference(gold), _difference(answer)
            if sign == other and _proportional(left, right, positive=sign != "!=") is True:
                return True
            return sign == FLIPPED[other] and _proportional(left, Op("neg", (right,)), positive=sign != "!=") is True
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
        case Matrix(), Group("list" | "tuple", items) | Group("list", (Group("list", items),)) if all(
            isinstance(item, Group) for item in items
        ):
            return (
                compare(gold, Matrix(tuple(item.items for item in items if isinstance(item, Group))))
                if _is_table(items)
                else False
            )
        case Group("list", items), Matrix() if _is_table(items):
            return compare(Matrix(tuple(item.items for item in items if isinstance(item, Group))), answer)
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
        case _, Group("bare", items) if items and not any(isinstance(item, Relation) for item in items):
            return _all(compare(gold, item) for item in items)  # `1/2 or 0.5` says one thing twice
        case _, Group() | Matrix():
            return False
        case _:
            return compare_scalars(gold, answer)


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
    if kinds in ({"()", "tuple"}, {"[]", "list"}):
        return _ordered(gold.items, answer.items)
    if "builder" in kinds or ({"(]", "[)", "()", "[]"} & kinds and len(kinds) > 1):
        return False
    if kinds == {"tuple", "list"} and len(gold.items) == 2:
        return False
    if gold.kind == answer.kind == "set" and len(gold.items) != len(answer.items):
        return _unordered(_distinct(gold.items), _distinct(answer.items))
    if "set" in kinds and kinds != {"set", "tuple"}:
        return _unordered(gold.items, answer.items)
    if kinds == {"bare"}:
        return _compare_lists(gold.items, answer.items)
    if "either" in kinds:
        return len(kinds) == 1 and _unordered(gold.items, answer.items)
    if gold.kind == "bare":
        ordered = _ordered(_values(gold.items), answer.items)
        return (
            ordered if ordered is not False else _unordered(gold.items, answer.items) if answer.kind == "set" else False
        )
    return _ordered(gold.items, _values(answer.items))


def _values(items: Sequence[Node]) -> tuple[Node, ...]:
    """The values of labelled items, coordinates in their order; the items themselves where any has no label."""
    labelled = [
        (item.sides[0], item.sides[-1])
        for item in items
        if isinstance(item, Relation) and set(item.signs) <= {"=", "~"} and is_label(item.sides[0])
    ]
    if len(labelled) < len(items):
        return tuple(items)
    if {label for label, _ in labelled} <= COORDINATES:
        labelled.sort(key=lambda pair: word_of(pair[0]))
    return tuple(value for _, value in labelled)


def _label_names(items: Sequence[Node]) -> list[str]:
    return [word_of(item.sides[0]) for item in items if isinstance(item, Relation) and is_label(item.sides[0])]


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


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    unknown = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unknown = unknown or verdict is None
    return None if unknown else True
