"""Values of expressions, exactly where rationals reach and to fifty digits beyond them.

Two expressions in variables are compared by their values at a few fixed rational points. What has no value of its own
(an integral, a limit, an unknown function) takes a value that depends on nothing but the values of its parts, so that
equal formulas stay equal and different ones meet by accident with a chance below 1e-20.
"""

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache, partial

from services.verifier.grading.cost import MAX_TERMS, spend
from services.verifier.grading.syntax import Group, Matrix, Node, Num, Op, Relation, Sym, Text, walk
from services.verifier.grading.values import (
    MP,
    OPERATIONS,
    SLOW,
    TOLERANCE,
    TURNING,
    Extreme,
    Undefined,
    Value,
    held,
    plus,
    times,
    to_mp,
    weight,
)
from services.verifier.grading.vocabulary import MAGNITUDES

DISTINCT_SAMPLES = 3


INTEGER_NAMES = frozenset("nmkNMKjl")


class Uncountable(Exception):
    """The node is no scalar."""


class Evaluator:
    """Evaluates nodes at one point; `calculus` tells whether an integral, limit, derivative or infinite series was
    met."""

    def __init__(self, point: Mapping[str, Value]) -> None:
        self._point = point
        self.calculus = False

    def value(self, node: Node) -> Value:
        """The node's value; raises `Undefined`, `Extreme` or `Uncountable`."""
        match node:
            case Num(value):
                return value
            case Sym(name):
                return self._symbol(name)
            case Op(name, args):
                return self._operation(name, args)
            case Text(words):
                return _pseudo("text", words.lower())
            case Group(_, (single,)):
                return self.value(single)
            case _:
                raise Uncountable

    def fingerprint(self, node: Node) -> str:
        """A text that equal nodes share, scalar or not."""
        match node:
            case Relation(signs, sides):
                return f"{signs}{[self.fingerprint(side) for side in sides]}"
            case Group(kind, items):
                parts = [self.fingerprint(item) for item in items]
                return f"{kind}{sorted(parts) if kind == 'set' else parts}"
            case Matrix(rows):
                return f"matrix{[[self.fingerprint(cell) for cell in row] for row in rows]}"
            case Op("union" | "intersection" | "difference" | "cases" | "ratio" as name, args):
                return f"{name}{[self.fingerprint(arg) for arg in args]}"
            case _:
                return _digits(self.value(node))

    def _symbol(self, name: str) -> Value:
        if name in self._point:
            return self._point[name]
        match name:
            case "pi":
                return MP.pi()
            case "e":
                return MP.e()
            case "i":
                return MP.mpc(0, 1)
            case "infinity":
                return MP.inf
            case "nan":
                raise Undefined
            case _ if name in MAGNITUDES:
                return Fraction(MAGNITUDES[name])
            case _:
                return _pseudo("symbol", name)

    def _operation(self, name: str, args: tuple[Node, ...]) -> Value:
        match name:
            case "series:sum:" | "series:prod:":
                return self._opaque(name, args)
            case _ if name.startswith("series:"):
                return self._series(name, args)
            case _ if name.startswith(("integral:", "limit:", "derivative")):
                return self._calculus(name, args)
            case "union" | "intersection" | "difference" | "cases":
                raise Uncountable
            case _ if name in OPERATIONS:
                values = [self.value(arg) for arg in args]
                spend(1 + sum(map(weight, values)) if name not in SLOW else 12)
                if name in TURNING:
                    values = [
                        times(value, MP.pi() / 180) if _is_degrees(arg) else value
                        for arg, value in zip(args, values, strict=True)
                    ]
                try:
                    return held(OPERATIONS[name](*values))
                except (ZeroDivisionError, ValueError, TypeError):
                    raise Undefined from None
                except (OverflowError, MemoryError):
                    raise Extreme from None
            case "det" if isinstance(args[0], Matrix):
                return self._determinant(args[0])
            case _:
                return self._opaque(name, args)

    def _opaque(self, name: str, args: tuple[Node, ...]) -> Value:
        return _pseudo(name, "|".join(self.fingerprint(arg) for arg in args))

    def _series(self, name: str, args: tuple[Node, ...]) -> Value:
        _, kind, variable = name.split(":")
        body, *bounds = args
        low, high = (self.value(bound) for bound in bounds)
        if not (
            isinstance(low, Fraction)
            and isinstance(high, Fraction)
            and low.denominator == high.denominator == 1
            and high - low <= MAX_TERMS
        ):
            self.calculus = True
            return self._bound(name.rsplit(":", 1)[0], body, (variable,), bounds)
        total: Value = Fraction(0 if kind == "sum" else 1)
        for index in range(int(low), int(high) + 1):
            spend(1)
            term = self._with({variable: Fraction(index)}).value(body)
            total = held(plus(total, term) if kind == "sum" else times(total, term))
        return total

    def _calculus(self, name: str, args: tuple[Node, ...]) -> Value:
        self.calculus = True
        if name.startswith("integral:"):
            _, kind, differentials = name.split(":")
            body, *bounds = args
            variables = tuple(part[1:] for part in differentials.split(","))
            ones: dict[str, Value] = {f"@{variable}": Fraction(1) for variable in variables}
            shown = "" if bounds else ",".join(variables)
            return self._with(ones)._bound(f"integral:{kind}:{shown}", body, variables, bounds)
        if name.startswith("limit:"):
            return self._bound("limit", args[0], (name.partition(":")[2],), list(args[1:]))
        body, variable, order = args
        assert isinstance(variable, Sym) and isinstance(order, Num)
        if is_slope(Op(name, args)):
            spend(20)
            curve = partial(self._height, body, variable.name)
            return held(MP.diff(curve, self._place(variable), int(order.value)))
        return self._bound(f"derivative:{variable.name}", body, (variable.name,), [order])

    def _height(self, body: Node, variable: str, place: Value) -> Value:
        return to_mp(self._with({variable: place}).value(body))

    def _place(self, variable: Sym) -> Value:
        place = self._point.get(variable.name)
        if place is None:
            raise Undefined
        return to_mp(place)

    def _bound(self, name: str, body: Node, variables: tuple[str, ...], rest: list[Node]) -> Value:
        """The value of an operator with bound variables: its body's values at fixed samples, and its other parts."""
        prints: list[str] = []
        for sample in range(DISTINCT_SAMPLES):
            names = {
                variable: Fraction(37 + 11 * sample + 5 * place, 23 + 4 * sample)
                for place, variable in enumerate(variables)
            }
            prints.append(self._with(names).fingerprint(body))
        return _pseudo(name, "|".join([*prints, *(self.fingerprint(node) for node in rest)]))

    def _with(self, names: Mapping[str, Value]) -> "Evaluator":
        inner = Evaluator({**self._point, **names})
        inner.calculus = self.calculus
        return inner

    def _determinant(self, matrix: Matrix) -> Value:
        rows = [[self.value(cell) for cell in row] for row in matrix.rows]
        if len(rows) != len(rows[0]) or len(rows) > 6:
            raise Undefined
        return _determinant(rows)


def is_slope(node: Node) -> bool:
    """Whether a node is a derivative of low order of an expression that has a value wherever its variable has one."""
    match node:
        case Op("derivative", (body, Sym(variable), Num(order))) if order <= 3:
            parts = list(walk(body))
            return Sym(variable) in parts and all(not isinstance(part, Op) or part.name in OPERATIONS for part in parts)
        case _:
            return False


def _determinant(rows: list[list[Value]]) -> Value:
    if len(rows) == 1:
        return rows[0][0]
    total: Value = Fraction(0)
    for column, entry in enumerate(rows[0]):
        minor = _determinant([row[:column] + row[column + 1 :] for row in rows[1:]])
        total = plus(total, times(times(Fraction(-1 if column % 2 else 1), entry), minor))
    return total


def _is_degrees(node: Node) -> bool:
    return any(isinstance(part, Op) and part.name == "degrees" for part in walk(node))


@lru_cache(maxsize=4096)
def _pseudo(name: str, content: str) -> Fraction:
    """A fixed rational in (1, 2) for what has no value: the same for the same name and content."""
    seed = hashlib.blake2b(f"{name}|{content}".encode(), digest_size=12).digest()
    return 1 + Fraction(int.from_bytes(seed, "big"), 1 << 96)


def _digits(value: Value) -> str:
    number = to_mp(value)
    if abs(number) < TOLERANCE:
        return "0"
    if isinstance(number, MP.mpc):
        return (
            _digits(number.real)
            if abs(number.imag) < TOLERANCE * abs(number)
            else f"{_digits(number.real)}+{_digits(number.imag)}i"
        )
    return str(MP.nstr(number, 25))


@lru_cache(maxsize=1024)
def points(names: frozenset[str]) -> list[dict[str, Value]]:
    """Where expressions in these variables are compared: whole numbers if all are customarily whole, else positive
    and mixed rationals."""
    whole = bool(names) and names <= INTEGER_NAMES
    return [{name: _coordinate(name, place, whole) for name in names} for place in range(5 if whole else 4)]


def _coordinate(name: str, place: int, whole: bool) -> Fraction:
    seed = int.from_bytes(hashlib.blake2b(f"{name}|{place}".encode(), digest_size=4).digest())
    if whole:
        return Fraction(2 + place + seed % 7 if place < 4 else 20 + seed % 11)
    size = Fraction(101 + seed % 787, 911)
    match place:
        case 0:
            return size
        case 1:
            return 1 + 3 * size
        case 2:
            return 2 * size if seed & 1024 else -2 * size
        case _:
            return -size - Fraction(1, 7)
