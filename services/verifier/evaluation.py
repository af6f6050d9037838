"""Values of expressions, exactly where rationals reach and to fifty digits beyond them.

Two expressions in variables are compared by their values at a few fixed rational points. What has no value of its own
(an integral, a limit, an unknown function) takes a value that depends on nothing but the values of its parts, so that
equal formulas stay equal and different ones meet by accident with a chance below 1e-20.
"""

import hashlib
import math
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from mpmath import MPContext

from services.verifier.cost import MAX_BITS, MAX_TERMS, spend
from services.verifier.syntax import Group, Matrix, Node, Num, Op, Relation, Sym, Text, walk
from services.verifier.vocabulary import MAGNITUDES

if TYPE_CHECKING:
    from mpmath import mpc, mpf

    Value = Fraction | mpf | mpc

MP = MPContext()
MP.prec = 190
MAX_MAGNITUDE = 200_000
"""Largest binary logarithm of a value; beyond it a value is only known to be extreme."""
TOLERANCE = MP.mpf(10) ** -35
DISTINCT_SAMPLES = 3
INTEGER_NAMES = frozenset("nmkNMKjl")


class Undefined(Exception):
    """There is no value at this point."""


class Extreme(Exception):
    """The value is too large or too small to be held."""


class Uncountable(Exception):
    """The node is no scalar."""


class Evaluator:
    """Evaluates nodes at one point; `calculus` tells whether an integral, limit, derivative or infinite series was met."""

    def __init__(self, point: Mapping[str, "Value"]) -> None:
        self._point = point
        self.calculus = False

    def value(self, node: Node) -> "Value":
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

    def _symbol(self, name: str) -> "Value":
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

    def _operation(self, name: str, args: tuple[Node, ...]) -> "Value":
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
                spend(1 + sum(map(_weight, values)) if name not in SLOW else 12)
                if name in TURNING:
                    values = [
                        _times(value, MP.pi() / 180) if _is_degrees(arg) else value
                        for arg, value in zip(args, values, strict=True)
                    ]
                try:
                    return _held(OPERATIONS[name](*values))
                except (ZeroDivisionError, ValueError, TypeError):
                    raise Undefined from None
                except (OverflowError, MemoryError):
                    raise Extreme from None
            case "det" if isinstance(args[0], Matrix):
                return self._determinant(args[0])
            case _:
                return self._opaque(name, args)

    def _opaque(self, name: str, args: tuple[Node, ...]) -> "Value":
        return _pseudo(name, "|".join(self.fingerprint(arg) for arg in args))

    def _series(self, name: str, args: tuple[Node, ...]) -> "Value":
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
            total = _held(_plus(total, term) if kind == "sum" else _times(total, term))
        return total

    def _calculus(self, name: str, args: tuple[Node, ...]) -> "Value":
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
        assert isinstance(variable, Sym)
        return self._bound(f"derivative:{variable.name}", body, (variable.name,), [order])

    def _bound(self, name: str, body: Node, variables: tuple[str, ...], rest: list[Node]) -> "Value":
        """The value of an operator with bound variables: its body's values at fixed samples, and its other parts."""
        prints: list[str] = []
        for sample in range(DISTINCT_SAMPLES):
            names = {
                variable: Fraction(37 + 11 * sample + 5 * place, 23 + 4 * sample)
                for place, variable in enumerate(variables)
            }
            prints.append(self._with(names).fingerprint(body))
        return _pseudo(name, "|".join([*prints, *(self.fingerprint(node) for node in rest)]))

    def _with(self, names: Mapping[str, "Value"]) -> "Evaluator":
        inner = Evaluator({**self._point, **names})
        inner.calculus = self.calculus
        return inner

    def _determinant(self, matrix: Matrix) -> "Value":
        rows = [[self.value(cell) for cell in row] for row in matrix.rows]
        if len(rows) != len(rows[0]) or len(rows) > 6:
            raise Undefined
        return _determinant(rows)


def _determinant(rows: "list[list[Value]]") -> "Value":
    if len(rows) == 1:
        return rows[0][0]
    total: Value = Fraction(0)
    for column, entry in enumerate(rows[0]):
        minor = _determinant([row[:column] + row[column + 1 :] for row in rows[1:]])
        total = _plus(total, _times(_times(Fraction(-1 if column % 2 else 1), entry), minor))
    return total


def _is_degrees(node: Node) -> bool:
    return any(isinstance(part, Op) and part.name == "degrees" for part in walk(node))


@lru_cache(maxsize=4096)
def _pseudo(name: str, content: str) -> Fraction:
    """A fixed rational in (1, 2) for what has no value: the same for the same name and content."""
    seed = hashlib.blake2b(f"{name}|{content}".encode(), digest_size=12).digest()
    return 1 + Fraction(int.from_bytes(seed, "big"), 1 << 96)


def to_mp(value: "Value") -> "mpf | mpc":
    """A value as a floating number of fifty digits."""
    return MP.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _digits(value: "Value") -> str:
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


def _held(value: "Value") -> "Value":
    """The value if it is a number that can be held."""
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            return _held(to_mp(value))
        return value
    if MP.isnan(value):
        raise Undefined
    if MP.isinf(value):
        return value
    if value and abs(MP.mag(value)) > MAX_MAGNITUDE:
        raise Extreme
    return value


def _plus(a: "Value", b: "Value") -> "Value":
    return a + b if isinstance(a, Fraction) and isinstance(b, Fraction) else to_mp(a) + to_mp(b)


def _times(a: "Value", b: "Value") -> "Value":
    return a * b if isinstance(a, Fraction) and isinstance(b, Fraction) else to_mp(a) * to_mp(b)


def _over(a: "Value", b: "Value") -> "Value":
    return a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else to_mp(a) / to_mp(b)


def _sum(*values: "Value") -> "Value":
    total = values[0]
    for value in values[1:]:
        total = _plus(total, value)
    return total


def _weight(value: "Value") -> int:
    """Steps that an operation on a value costs beyond the first."""
    return (
        value.numerator.bit_length() // 4_000 + value.denominator.bit_length() // 1_000
        if isinstance(value, Fraction)
        else 0
    )


def _size(value: "Value") -> int:
    """An upper bound of the absolute binary logarithm, at least 1."""
    if isinstance(value, Fraction):
        return max(value.numerator.bit_length(), value.denominator.bit_length(), 1)
    return max(abs(int(MP.mag(value))), 1) if value and not MP.isinf(value) else 1


def _power(base: "Value", exponent: "Value") -> "Value":
    if isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            power = exponent.numerator
            if isinstance(base, Fraction):
                if abs(base) in (0, 1):
                    return base**power if abs(base) == 0 else (base if power % 2 else Fraction(1))
                if _size(base) * abs(power) <= MAX_BITS:
                    return base**power
            if _log2(base) * abs(power) > MAX_MAGNITUDE:
                raise Extreme
            return to_mp(base) ** power
        if isinstance(base, Fraction):
            root = _exact_root(base, exponent.denominator)
            if root is not None:
                return _power(root, Fraction(exponent.numerator))
        number = to_mp(base)
        if not isinstance(number, MP.mpc) and number < 0 and exponent.denominator % 2:
            size = _power(-number, exponent)
            return -to_mp(size) if exponent.numerator % 2 else size
    if isinstance(base, Fraction) and base == 0:
        if to_mp(exponent).real <= 0:
            raise Undefined
        return Fraction(0)
    if _log2(base) * abs(to_mp(exponent)) > MAX_MAGNITUDE:
        raise Extreme
    return to_mp(base) ** to_mp(exponent)


def _log2(value: "Value") -> float:
    number = abs(to_mp(value))
    if not number or MP.isinf(number):
        return 1.0
    return max(abs(float(MP.log(number, 2))), 1e-6)


def _exact_root(base: Fraction, degree: int) -> Fraction | None:
    """The rational root where there is one; the real root of a negative number for an odd degree."""
    if degree > 12 or (base < 0 and degree % 2 == 0):
        return None
    top, bottom = _integer_root(abs(base.numerator), degree), _integer_root(base.denominator, degree)
    if top is None or bottom is None:
        return None
    return Fraction(-top if base < 0 else top, bottom)


def _integer_root(number: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(number)
        return root if root * root == number else None
    if number.bit_length() > 900:
        return None
    guess = round(number ** (1 / degree))
    return next((root for root in (guess - 1, guess, guess + 1) if root >= 0 and root**degree == number), None)


def _root(base: "Value", degree: "Value") -> "Value":
    return _power(base, _over(Fraction(1), degree))


def _integer(value: "Value") -> int:
    if isinstance(value, Fraction) and value.denominator == 1:
        return value.numerator
    raise ValueError(value)


def _factorial(value: "Value") -> "Value":
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise Undefined
        if value <= 1000:
            return Fraction(math.factorial(value.numerator))
    if abs(to_mp(value)) > 20_000:
        raise Extreme
    return MP.gamma(to_mp(value) + 1)


def _binomial(top: "Value", bottom: "Value") -> "Value":
    if (
        isinstance(top, Fraction)
        and isinstance(bottom, Fraction)
        and top.denominator == bottom.denominator == 1
        and 0 <= top <= 3000
        and bottom >= 0
    ):
        return Fraction(math.comb(top.numerator, bottom.numerator))
    if max(abs(to_mp(top)), abs(to_mp(bottom))) > 100_000:
        raise Extreme
    return MP.binomial(to_mp(top), to_mp(bottom))


def _permutations(top: "Value", bottom: "Value") -> "Value":
    n, k = _integer(top), _integer(bottom)
    if max(n, k) > 1000 or min(n, k) < 0:
        raise Extreme
    return Fraction(math.perm(n, k))


def _real(value: "Value") -> "Value":
    number = to_mp(value)
    if isinstance(number, MP.mpc):
        if abs(number.imag) > TOLERANCE * max(abs(number), 1):
            raise Undefined
        return number.real
    return value


def _floor(value: "Value") -> "Value":
    value = _real(value)
    if isinstance(value, Fraction):
        return Fraction(math.floor(value))
    nearest = MP.nint(value)
    return Fraction(int(nearest if abs(value - nearest) < TOLERANCE * max(abs(value), 1) else MP.floor(value)))


def _ceil(value: "Value") -> "Value":
    return _times(Fraction(-1), _floor(_times(Fraction(-1), value)))


def _log(value: "Value", base: "Value | None" = None) -> "Value":
    if isinstance(value, Fraction) and value == 1:
        return Fraction(0)
    if value == 0:
        raise Undefined
    logarithm = MP.log(to_mp(value))
    return logarithm if base is None else logarithm / MP.log(to_mp(base))


def _exp(value: "Value") -> "Value":
    if abs(to_mp(value)) > MAX_MAGNITUDE:
        raise Extreme
    return MP.exp(to_mp(value))


def _extremum(largest: bool, values: "tuple[Value, ...]") -> "Value":
    ordered = sorted((_real(value) for value in values), key=to_mp)
    return ordered[-1 if largest else 0]


def _sign(value: "Value") -> "Value":
    value = _real(value)
    return Fraction((to_mp(value) > 0) - (to_mp(value) < 0))


def _function(name: str) -> "object":
    function = getattr(MP, name)

    def apply(value: "Value") -> "Value":
        if abs(to_mp(value)) > 10**30:
            raise Extreme
        return function(to_mp(value))

    return apply


FUNCTION_NAMES = (
    "sin",
    "cos",
    "tan",
    "sec",
    "csc",
    "cot",
    "sinh",
    "cosh",
    "tanh",
    "sech",
    "csch",
    "coth",
    "asin",
    "acos",
    "atan",
    "acot",
    "asec",
    "acsc",
    "asinh",
    "acosh",
    "atanh",
    "erf",
)
OPERATIONS = {
    "add": _sum,
    "neg": lambda value: -value,
    "mul": _times,
    "div": _over,
    "ratio": lambda first, second: _over(first, second),
    "pow": _power,
    "percent": lambda value: _over(value, Fraction(100)),
    "degrees": lambda value: value,
    "factorial": _factorial,
    "binomial": _binomial,
    "permutations": _permutations,
    "sqrt": lambda value: _power(value, Fraction(1, 2)),
    "cbrt": lambda value: _power(value, Fraction(1, 3)),
    "root": _root,
    "abs": abs,
    "floor": _floor,
    "ceil": _ceil,
    "sign": _sign,
    "gcd": lambda *values: Fraction(math.gcd(*map(_integer, values))),
    "lcm": lambda *values: Fraction(math.lcm(*map(_integer, values))),
    "max": lambda *values: _extremum(True, values),
    "min": lambda *values: _extremum(False, values),
    "ln": _log,
    "log": _log,
    "lg": lambda value, base=Fraction(10): _log(value, base),
    "log2": lambda value: _log(value, Fraction(2)),
    "exp": _exp,
    "re": lambda value: to_mp(value).real,
    "im": lambda value: to_mp(value).imag,
    "conjugate": lambda value: MP.conj(to_mp(value)),
    "arg": lambda value: MP.arg(to_mp(value)),
    "mod": lambda a, b: Fraction(_integer(a) % _integer(b)),
    **{name: _function(name) for name in FUNCTION_NAMES},
}
SLOW = frozenset(
    [
        "pow",
        "sqrt",
        "cbrt",
        "root",
        "ln",
        "log",
        "lg",
        "log2",
        "exp",
        "factorial",
        "binomial",
        "arg",
        *(name for name in FUNCTION_NAMES),
    ]
)
TURNING = frozenset(["sin", "cos", "tan", "sec", "csc", "cot"])


def near(a: "Value", b: "Value") -> bool:
    """Whether two values are equal: exactly for rationals, else to 35 digits."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    x, y = to_mp(a), to_mp(b)
    if MP.isinf(x) or MP.isinf(y):
        return bool(x == y)
    size = max(abs(x), abs(y))
    return bool(abs(x - y) <= TOLERANCE * (size if min(abs(x), abs(y)) else max(size, 1)))


@lru_cache(maxsize=1024)
def points(names: frozenset[str]) -> "list[dict[str, Value]]":
    """Where expressions in these variables are compared: whole numbers if all are customarily whole, else positive and mixed rationals."""
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
