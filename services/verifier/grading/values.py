"""Arithmetic on values: rationals as long as they last, fifty digits beyond them, and an error for what cannot be
held."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

from mpmath import MPContext  # pyright: ignore[reportMissingTypeStubs]

from services.verifier.grading.cost import MAX_BITS

Float: TypeAlias = Any
"""A floating number of `MP`, real or complex."""
Value: TypeAlias = Fraction | Float

MP: Any = MPContext()
"""A context of our own, so that nobody else's precision counts; mpmath has no types."""
MP.prec = 190
MAX_MAGNITUDE = 200_000
"""Largest binary logarithm of a value; beyond it a value is only known to be extreme."""
TOLERANCE = MP.mpf(10) ** -35


class Undefined(Exception):
    """There is no value at this point."""


class Extreme(Exception):
    """The value is too large or too small to be held."""


def to_mp(value: Value) -> Float:
    """A value as a floating number of fifty digits."""
    return MP.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def held(value: Value) -> Value:
    """The value if it is a number that can be held."""
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            return held(to_mp(value))
        return value
    if MP.isnan(value):
        raise Undefined
    if MP.isinf(value):
        return value
    if value and abs(MP.mag(value)) > MAX_MAGNITUDE:
        raise Extreme
    return value


def plus(a: Value, b: Value) -> Value:
    return a + b if isinstance(a, Fraction) and isinstance(b, Fraction) else to_mp(a) + to_mp(b)


def times(a: Value, b: Value) -> Value:
    return a * b if isinstance(a, Fraction) and isinstance(b, Fraction) else to_mp(a) * to_mp(b)


def over(a: Value, b: Value) -> Value:
    return a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else to_mp(a) / to_mp(b)


def _sum(*values: Value) -> Value:
    total = values[0]
    for value in values[1:]:
        total = plus(total, value)
    return total


def weight(value: Value) -> int:
    """Steps that an operation on a value costs beyond the first."""
    return (
        value.numerator.bit_length() // 4_000 + value.denominator.bit_length() // 1_000
        if isinstance(value, Fraction)
        else 0
    )


def _size(value: Value) -> int:
    """An upper bound of the absolute binary logarithm, at least 1."""
    if isinstance(value, Fraction):
        return max(value.numerator.bit_length(), value.denominator.bit_length(), 1)
    return max(abs(int(MP.mag(value))), 1) if value and not MP.isinf(value) else 1


def _power(base: Value, exponent: Value) -> Value:
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


def _log2(value: Value) -> float:
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


def _root(base: Value, degree: Value) -> Value:
    return _power(base, over(Fraction(1), degree))


def _integer(value: Value) -> int:
    if isinstance(value, Fraction) and value.denominator == 1:
        return value.numerator
    raise ValueError(value)


def _factorial(value: Value) -> Value:
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise Undefined
        if value <= 1000:
            return Fraction(math.factorial(value.numerator))
    if abs(to_mp(value)) > 20_000:
        raise Extreme
    return MP.gamma(to_mp(value) + 1)


def _binomial(top: Value, bottom: Value) -> Value:
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


def _permutations(top: Value, bottom: Value) -> Value:
    n, k = _integer(top), _integer(bottom)
    if max(n, k) > 1000 or min(n, k) < 0:
        raise Extreme
    return Fraction(math.perm(n, k))


def _real(value: Value) -> Value:
    number = to_mp(value)
    if isinstance(number, MP.mpc):
        if abs(number.imag) > TOLERANCE * max(abs(number), 1):
            raise Undefined
        return number.real
    return value


def _floor(value: Value) -> Value:
    value = _real(value)
    if isinstance(value, Fraction):
        return Fraction(math.floor(value))
    nearest = MP.nint(value)
    return Fraction(int(nearest if abs(value - nearest) < TOLERANCE * max(abs(value), 1) else MP.floor(value)))


def _ceil(value: Value) -> Value:
    return times(Fraction(-1), _floor(times(Fraction(-1), value)))


def _log(value: Value, base: Value | None = None) -> Value:
    if isinstance(value, Fraction) and value == 1:
        return Fraction(0)
    if value == 0:
        raise Undefined
    logarithm = MP.log(to_mp(value))
    return logarithm if base is None else logarithm / MP.log(to_mp(base))


def _decimal_log(value: Value, base: Value = Fraction(10)) -> Value:
    return _log(value, base)


def _exp(value: Value) -> Value:
    if abs(to_mp(value)) > MAX_MAGNITUDE:
        raise Extreme
    return MP.exp(to_mp(value))


def _largest(*values: Value) -> Value:
    return max(map(_real, values), key=to_mp)


def _smallest(*values: Value) -> Value:
    return min(map(_real, values), key=to_mp)


def _gcd(*values: Value) -> Value:
    return Fraction(math.gcd(*map(_integer, values)))


def _lcm(*values: Value) -> Value:
    return Fraction(math.lcm(*map(_integer, values)))


def _sign(value: Value) -> Value:
    value = _real(value)
    return Fraction((to_mp(value) > 0) - (to_mp(value) < 0))


def _function(name: str) -> Callable[[Value], Value]:
    function = getattr(MP, name)

    def apply(value: Value) -> Value:
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


def _double_factorial(value: Value) -> Value:
    number = _integer(value)
    if not 0 <= number <= 1000:
        raise Extreme
    return Fraction(math.prod(range(number, 0, -2)))


UNARY: dict[str, Callable[[Value], Value]] = {
    "neg": lambda value: -value,
    "percent": lambda value: over(value, Fraction(100)),
    "degrees": lambda value: value,
    "factorial": _factorial,
    "factorial2": _double_factorial,
    "sqrt": lambda value: _power(value, Fraction(1, 2)),
    "cbrt": lambda value: _power(value, Fraction(1, 3)),
    "abs": abs,
    "floor": _floor,
    "ceil": _ceil,
    "sign": _sign,
    "log2": lambda value: _log(value, Fraction(2)),
    "exp": _exp,
    "re": lambda value: to_mp(value).real,
    "im": lambda value: to_mp(value).imag,
    "conjugate": lambda value: MP.conj(to_mp(value)),
    "arg": lambda value: MP.arg(to_mp(value)),
    **{name: _function(name) for name in FUNCTION_NAMES},
}
BINARY: dict[str, Callable[[Value, Value], Value]] = {
    "mul": times,
    "div": over,
    "ratio": over,
    "pow": _power,
    "binomial": _binomial,
    "permutations": _permutations,
    "root": _root,
    "mod": lambda a, b: Fraction(_integer(a) % _integer(b)),
}
OPERATIONS: dict[str, Callable[..., Value]] = {
    **UNARY,
    **BINARY,
    "add": _sum,
    "gcd": _gcd,
    "lcm": _lcm,
    "max": _largest,
    "min": _smallest,
    "ln": _log,
    "log": _log,
    "lg": _decimal_log,
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


def near(a: Value, b: Value) -> bool:
    """Whether two values are equal: exactly for rationals, else to 35 digits."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    x, y = to_mp(a), to_mp(b)
    if MP.isinf(x) or MP.isinf(y):
        return bool(x == y)
    size = max(abs(x), abs(y))
    return bool(abs(x - y) <= TOLERANCE * (size if min(abs(x), abs(y)) else max(size, 1)))
