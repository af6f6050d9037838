"""Sets of real numbers in one form: sorted, disjoint spans. Intervals, unions, inequalities and set builders all
reduce to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from services.verifier.grading.evaluation import Evaluator, Uncountable
from services.verifier.grading.syntax import Group, Node, Op, Relation, Sym, walk
from services.verifier.grading.values import MP, Extreme, Undefined, Value, near, to_mp

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}
MAX_SPANS = 64


@dataclass(frozen=True, slots=True)
class Span:
    """From `low` to `high`; an end that is closed belongs to it. A point is a span closed at both equal ends."""

    low: Value
    low_closed: bool
    high: Value
    high_closed: bool


Combine = Callable[[Sequence[Span], Sequence[Span]], tuple[Span, ...]]
REALS = (Span(-MP.inf, False, MP.inf, False),)


def real_set(node: Node) -> tuple[Span, ...] | None:
    """The spans of a node read as a set of real numbers; None where it is none, or its ends are not constants."""
    try:
        spans = _spans(node)
    except (Undefined, Extreme, Uncountable):
        return None
    return None if spans is None or len(spans) > MAX_SPANS else spans


def sets_equal(a: Sequence[Span], b: Sequence[Span]) -> bool:
    """Whether two sets have the same spans."""
    return len(a) == len(b) and all(
        x.low_closed == y.low_closed and x.high_closed == y.high_closed and near(x.low, y.low) and near(x.high, y.high)
        for x, y in zip(a, b, strict=True)
    )


def is_set_like(node: Node) -> bool:
    """Whether a node can only be read as a set of reals or a condition: a union, an inequality, a half-open interval,
    an infinite end."""
    match node:
        case Op("union" | "intersection" | "difference", _):
            return True
        case Group("(]" | "[)" | "()" | "[]" | "builder", _) | Sym("R"):
            return True
        case Group("tuple" | "list", (low, high)):
            return any(part == Sym("infinity") for end in (low, high) for part in walk(end))
        case Relation(signs, _):
            return any(sign in FLIPPED or sign in ("in", "notin") for sign in signs) and signs != ("=",)
        case Group("bare" | "either", items):
            return bool(items) and all(isinstance(item, Relation) and is_set_like(item) for item in items)
        case _:
            return False


def _constant(node: Node) -> Value:
    for part in walk(node):
        if isinstance(part, Sym) and part.name not in ("pi", "e", "infinity"):
            raise Undefined
    value = to_mp(Evaluator({}).value(node))
    if isinstance(value, MP.mpc):
        raise Undefined
    return value


def _spans(node: Node) -> tuple[Span, ...] | None:
    match node:
        case Sym("R"):
            return REALS
        case Group("tuple" | "list" | "()" | "[]" | "(]" | "[)" as kind, (low, high)):
            start, stop = _constant(low), _constant(high)
            left, right = kind in ("list", "[]", "[)"), kind in ("list", "[]", "(]")
            span = Span(start, left and not MP.isinf(start), stop, right and not MP.isinf(stop))
            return (span,) if to_mp(start) < to_mp(stop) or (left and right and near(start, stop)) else None
        case Group("set", items):
            return merge([Span(value, True, value, True) for value in map(_constant, items)])
        case Group("builder", (_, condition)):
            return _spans(condition)
        case Op("union", (left, right)):
            return _both(left, right, lambda a, b: merge([*a, *b]))
        case Op("intersection", (left, right)):
            return _both(left, right, intersect)
        case Op("difference", (left, right)):
            return _both(left, right, lambda a, b: intersect(a, complement(b)))
        case Relation():
            return _relation(node)
        case Group("bare", items) if items:
            return _conditions(items)
        case Group("either", items):
            spans = [_spans(item) for item in items]
            return None if None in spans else merge([span for part in spans for span in part or ()])
        case _:
            return None


def _both(left: Node, right: Node, combine: Combine) -> tuple[Span, ...] | None:
    a, b = _spans(left), _spans(right)
    return None if a is None or b is None else combine(a, b)


def _relation(node: Relation) -> tuple[Span, ...] | None:
    match node:
        case Relation(("in",), (_, inside)):
            return _spans(inside)
        case Relation(("notin",), (_, inside)):
            spans = _spans(inside)
            return None if spans is None else complement(spans)
        case Relation((sign,), (Op("abs", (inner,)), bound)) if sign in ("<", "<=", ">", ">="):
            radius = Op("neg", (bound,))
            if sign in ("<", "<="):
                return _relation(Relation((sign, sign), (radius, inner, bound)))
            outside = (
                _relation(Relation((sign,), (inner, bound))),
                _relation(Relation((FLIPPED[sign],), (inner, radius))),
            )
            return None if outside[0] is None or outside[1] is None else merge([*outside[0], *outside[1]])
        case Relation(signs, sides) if all(sign in FLIPPED for sign in signs):
            spans: tuple[Span, ...] | None = REALS
            for sign, left, right in zip(signs, sides, sides[1:], strict=False):
                piece = _half(sign, left, right) or _half(FLIPPED[sign], right, left)
                if piece is None:
                    return None
                spans = intersect(spans, piece)
            return spans
        case _:
            return None


def _half(sign: str, variable: Node, bound: Node) -> tuple[Span, ...] | None:
    """`x sign bound` for a lone variable, also shifted or scaled by constants."""
    slope, offset = _affine(variable) or (None, None)
    if slope is None or offset is None or not slope:
        return None
    try:
        limit = (_constant(bound) - to_mp(offset)) / to_mp(slope)
    except Undefined:
        return None
    if slope < 0:
        sign = FLIPPED[sign]
    match sign:
        case "<" | "<=":
            return (Span(-MP.inf, False, limit, sign == "<="),)
        case ">" | ">=":
            return (Span(limit, sign == ">=", MP.inf, False),)
        case "=":
            return (Span(limit, True, limit, True),)
        case _:
            return complement((Span(limit, True, limit, True),))


def _affine(node: Node) -> tuple[Fraction, Fraction] | None:
    """(slope, offset) of a node that is affine in its only variable, with rational coefficients."""
    names = {part.name for part in walk(node) if isinstance(part, Sym)}
    if len(names) != 1 or names & {"pi", "e", "i", "infinity"}:
        return None
    name = names.pop()
    values: list[Fraction] = []
    for place in range(4):
        try:
            value = Evaluator({name: Fraction(place)}).value(node)
        except (Undefined, Extreme, Uncountable):
            return None
        if not isinstance(value, Fraction):
            return None
        values.append(value)
    slope = values[1] - values[0]
    straight = all(values[place + 1] - values[place] == slope for place in range(3))
    return (slope, values[0]) if straight and slope else None


def _conditions(items: Sequence[Node]) -> tuple[Span, ...] | None:
    """Several conditions on one variable: exclusions hold together, bounds hold together if they can and else in
    turn."""
    bounds: list[tuple[Span, ...]] = []
    exclusions: tuple[Span, ...] = REALS
    for item in items:
        spans = _spans(item)
        if spans is None:
            return None
        if isinstance(item, Relation) and item.signs in (("!=",), ("notin",)):
            exclusions = intersect(exclusions, spans)
        else:
            bounds.append(spans)
    together: tuple[Span, ...] = REALS
    for spans in bounds:
        together = intersect(together, spans)
    either = together or merge([span for spans in bounds for span in spans])
    return intersect(either, exclusions)


def merge(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The union of spans, sorted and disjoint."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: (to_mp(span.low), not span.low_closed)):
        if merged:
            last = merged[-1]
            touch = near(last.high, span.low) and (last.high_closed or span.low_closed)
            if touch or (to_mp(span.low) < to_mp(last.high) and not near(last.high, span.low)):
                if near(last.high, span.high):
                    high, closed = last.high, last.high_closed or span.high_closed
                else:
                    high, closed = max(
                        (last.high, last.high_closed), (span.high, span.high_closed), key=lambda end: to_mp(end[0])
                    )
                merged[-1] = Span(
                    last.low, last.low_closed or (near(last.low, span.low) and span.low_closed), high, closed
                )
                continue
        merged.append(span)
    return tuple(merged)


def complement(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The reals outside of sorted, disjoint spans."""
    gaps: list[Span] = []
    low, closed = -MP.inf, False
    for span in spans:
        if (to_mp(low) < to_mp(span.low) and not near(low, span.low)) or (
            near(low, span.low) and closed and not span.low_closed
        ):
            gaps.append(Span(low, closed, span.low, not span.low_closed and not MP.isinf(to_mp(span.low))))
        low, closed = span.high, not span.high_closed
    if not MP.isinf(to_mp(low)) or low == -MP.inf:
        gaps.append(Span(low, closed and not MP.isinf(to_mp(low)), MP.inf, False))
    return tuple(gaps)


def intersect(a: Sequence[Span], b: Sequence[Span]) -> tuple[Span, ...]:
    """The common part of two sets."""
    common: list[Span] = []
    for x in a:
        for y in b:
            low, low_closed = (
                (x.low, x.low_closed and y.low_closed)
                if near(x.low, y.low)
                else max((x.low, x.low_closed), (y.low, y.low_closed), key=lambda end: to_mp(end[0]))
            )
            high, high_closed = (
                (x.high, x.high_closed and y.high_closed)
                if near(x.high, y.high)
                else min((x.high, x.high_closed), (y.high, y.high_closed), key=lambda end: to_mp(end[0]))
            )
            if (near(low, high) and low_closed and high_closed) or (not near(low, high) and to_mp(low) < to_mp(high)):
                common.append(Span(low, low_closed, high, high_closed))
    return merge(common)
