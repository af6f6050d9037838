"""The symbolic tier: computer algebra on one pair of answers.

It is slow and greedy by nature, so it runs only inside `zygote`'s workers. Formulas of the service's own grammar become
SymPy objects node by node, nothing is evaluated from text; what the grammar does not know goes through
latex2sympy and math-verify, whose own timeouts are off because the worker's deadline stands over them.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import cast

import sympy
from latex2sympy2_extended import latex2sympy
from math_verify.grader import verify

from services.verifier.grading.comparison import compare
from services.verifier.grading.cost import WORKER_STEPS, allowance, refusal
from services.verifier.grading.parser import parse
from services.verifier.grading.syntax import Node, Num, Op, Relation, Sym, Unparsed
from services.verifier.grading.tiers import compare_texts
from services.verifier.grading.values import FUNCTION_NAMES

FUNCTIONS: dict[str, Callable[..., sympy.Expr]] = {
    "add": lambda *parts: sympy.Add(*parts),
    "neg": lambda value: -value,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "ratio": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "percent": lambda value: value / 100,
    "root": lambda value, degree: value ** (1 / degree),
    "cbrt": sympy.cbrt,
    "ln": sympy.log,
    "log": sympy.log,
    "lg": lambda value: sympy.log(value, 10),
    "log2": lambda value: sympy.log(value, 2),
    "abs": sympy.Abs,
    "ceil": sympy.ceiling,
    "sign": sympy.sign,
    "max": sympy.Max,
    "min": sympy.Min,
    **{
        name: getattr(sympy, name)
        for name in (
            *FUNCTION_NAMES,
            "exp",
            "sqrt",
            "factorial",
            "binomial",
            "floor",
            "gcd",
            "lcm",
            "re",
            "im",
            "conjugate",
            "arg",
        )
    },
}
CONSTANTS: dict[str, sympy.Expr] = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infinity": sympy.oo}
DIGITS = 30


class Refused(Exception):
    """The static guard keeps a formula from computer algebra."""


def answers_equal(gold: str, answer: str) -> bool:
    """Whether two clean answers are the same mathematical object; raises `Refused` and what computer algebra raises."""
    with allowance(WORKER_STEPS):
        verdict, _ = compare_texts(gold, answer)
    if verdict is not None:
        return verdict
    reason = refusal(gold) or refusal(answer)
    if reason is not None:
        raise Refused(reason)
    try:
        wanted, found = parse(gold), parse(answer)
    except Unparsed:
        return _foreign_equal(gold, answer)
    return nodes_equal(wanted, found)


def _foreign_equal(gold: str, answer: str) -> bool:
    """Grade texts outside of the service's grammar; what latex2sympy cannot read either equals nothing but its own
    string."""
    try:
        wanted, found = latex2sympy(gold), latex2sympy(answer)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 - the parser raises bare `Exception`
        return False
    if not isinstance(wanted, sympy.Basic | sympy.MatrixBase) or not isinstance(found, sympy.Basic | sympy.MatrixBase):
        return False
    return bool(verify([wanted], [found], timeout_seconds=None, raise_on_error=True))


def nodes_equal(gold: Node, answer: Node) -> bool:
    """Whether two nodes agree once their integrals, limits, derivatives and series are worked out."""
    match gold, answer:
        case Relation(("=",), (label, value)), Relation(("=",), (other, found)):
            return (compare(label, other) is True and nodes_equal(value, found)) or _vanishes(
                to_sympy(label) - to_sympy(value) - to_sympy(other) + to_sympy(found)
            )
        case Relation(("=",), (_, value)), _:
            return nodes_equal(value, answer)
        case _, Relation(("=",), (_, found)):
            return nodes_equal(gold, found)
        case _:
            pass
    wanted, found = to_sympy(gold).doit(), to_sympy(answer).doit()
    if _vanishes(wanted - found):
        return True
    if _is_antiderivative(gold) != _is_antiderivative(answer):
        integral = gold if _is_antiderivative(gold) else answer
        assert isinstance(integral, Op)
        variable = sympy.Symbol(integral.name.rsplit("@", 1)[-1])
        return _vanishes(sympy.diff(wanted - found, variable))
    return False


def _is_antiderivative(node: Node) -> bool:
    return isinstance(node, Op) and node.name.startswith("integral:") and len(node.args) == 1


def _vanishes(difference: sympy.Basic) -> bool:
    if difference == 0:
        return True
    if not difference.free_symbols and not difference.has(sympy.Integral, sympy.Sum, sympy.Limit):
        return bool(abs(sympy.N(difference, DIGITS, maxn=200)) < sympy.Float(10) ** -(DIGITS // 2))
    return sympy.simplify(difference) == 0


def to_sympy(node: Node) -> sympy.Expr:
    """A node as a SymPy expression, unevaluated where calculus is written; raises `Unparsed` on what SymPy has no
    word for."""
    match node:
        case Num(value):
            return sympy.Rational(value.numerator, value.denominator)
        case Sym(name) if name in CONSTANTS:
            return CONSTANTS[name]
        case Sym(name) if not name.startswith("@") and name != "...":
            return sympy.Symbol(name)
        case Op(name, args) if name in FUNCTIONS:
            return FUNCTIONS[name](*map(to_sympy, args))
        case Op(name, args) if name.startswith("apply:"):
            return sympy.Function(name[6:])(*map(to_sympy, args))
        case Op(name, args):
            return _calculus(name, args)
        case _:
            raise Unparsed


def _calculus(name: str, args: tuple[Node, ...]) -> sympy.Expr:
    kind, _, rest = name.partition(":")
    match kind, args:
        case "integral", (body, *bounds) if "," not in rest and rest.startswith("int:@") and len(bounds) in (0, 2):
            variable = sympy.Symbol(rest[5:])
            integrand = to_sympy(_without_differential(body))
            return sympy.Integral(integrand, (variable, *map(to_sympy, bounds)) if bounds else variable)
        case "limit", (body, target):
            match target:
                case Op("pow", (point, Sym("^+" | "^-" as side))):
                    return sympy.Limit(to_sympy(body), sympy.Symbol(rest), to_sympy(point), side[1])
                case _:
                    return sympy.Limit(
                        to_sympy(body), sympy.Symbol(rest), to_sympy(target), "+-" if target != Sym("infinity") else "-"
                    )
        case "derivative", (body, Sym(variable), Num(order)):
            return to_sympy(body).diff(sympy.Symbol(variable), int(order))
        case "series", (body, low, high) if rest.partition(":")[2]:
            operator, variable = rest.split(":")
            limits = (sympy.Symbol(variable), to_sympy(low), to_sympy(high))
            if operator == "sum":
                return cast(sympy.Expr, sympy.Sum(to_sympy(body), limits))
            return cast(sympy.Expr, sympy.Product(to_sympy(body), limits))
        case _:
            raise Unparsed


def _without_differential(node: Node) -> Node:
    match node:
        case Sym(name) if name.startswith("@"):
            return Num(Fraction(1))
        case Op(name, args):
            return Op(name, tuple(map(_without_differential, args)))
        case _:
            return node
