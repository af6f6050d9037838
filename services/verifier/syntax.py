"""The syntax of answers: nodes, tokens, and the tables of names that both LaTeX and Python spell."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal


class Unparsed(Exception):
    """The text is not an answer of the grammar; equality of strings is all that is left."""


@dataclass(frozen=True, slots=True)
class Num:
    """A numeral; `digits` counts its decimals, None where it is exact."""

    value: Fraction
    digits: int | None = None


@dataclass(frozen=True, slots=True)
class Sym:
    """A variable, or a word that stands for itself."""

    name: str


@dataclass(frozen=True, slots=True)
class Text:
    """Words set as text: a unit, a word answer."""

    words: str


@dataclass(frozen=True, slots=True)
class Op:
    """An operation or function on arguments."""

    name: str
    args: tuple["Node", ...]


Bracket = Literal["bare", "tuple", "list", "set", "(]", "[)", "builder", "()", "[]"]


@dataclass(frozen=True, slots=True)
class Group:
    """Several items: a bare list, a tuple `(a, b)`, a list `[a, b]`, a set, a half-open interval, or a set builder (item, condition)."""

    kind: Bracket
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain: `signs[k]` stands between `sides[k]` and `sides[k + 1]`."""

    signs: tuple[str, ...]
    sides: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple["Node", ...], ...]


Node = Num | Sym | Text | Op | Group | Relation | Matrix


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `spaced` tells whether white space stood before it."""

    kind: Literal["number", "name", "command", "text", "sign", "end"]
    text: str
    spaced: bool


TEXT_COMMANDS = r"text|mathrm|mbox|hbox|textbf|mathbf|textit|operatorname|textnormal|mathit|mathsf|mathcal|texttt|textrm|textsf|rm|unit|si|bold|pmb|mathbb|mathfrak"
_SCANNER = (
    r"(?P<space>\s+)"
    r"|(?P<repeating>\d*\.\d*(?:\\(?:overline|bar|dot)\s*\{{\d+\}}|\(\d+\)(?=\\ldots|\.\.\.|\s*$)))"
    r"|(?P<number>{integer}(?:\.\d+)?(?:[eE][-+]?\d+(?![\dA-Za-z.]))?|\.\d+(?:[eE][-+]?\d+)?)"
    r"|\\(?P<face>" + TEXT_COMMANDS + r")\*?\s*\{{(?P<text>[^{{}}]*)\}}"
    r"|(?P<command>\\[A-Za-z]+|\\[^A-Za-z\s])"
    r"|(?P<name>[A-Za-z]+)"
    r"|(?P<sign>\*\*|<=>|==|<=|>=|!=|<>|=>|->|:=|\.\.\.+|[^\s])"
)
SCANNERS = {
    True: re.compile(_SCANNER.format(integer=r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d+)")),
    False: re.compile(_SCANNER.format(integer=r"\d+")),
}

GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma tau upsilon phi varphi chi"
    " psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar aleph".split()
)
FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "sec": "sec", "csc": "csc", "cosec": "csc", "cot": "cot", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh",
    "sech": "sech", "csch": "csch", "coth": "coth", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec",
    "arccsc": "acsc", "asin": "asin", "acos": "acos", "atan": "atan", "acot": "acot", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
    "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh", "ln": "ln", "log": "log", "lg": "lg",
    "exp": "exp", "sqrt": "sqrt", "cbrt": "cbrt", "abs": "abs", "Abs": "abs", "floor": "floor", "ceil": "ceil", "ceiling": "ceil", "sgn": "sign",
    "sign": "sign", "gcd": "gcd", "lcm": "lcm", "max": "max", "min": "min", "det": "det", "tr": "tr", "rank": "rank", "arg": "arg", "Re": "re",
    "Im": "im", "re": "re", "im": "im", "deg": "deg", "dim": "dim", "ker": "ker", "erf": "erf", "binomial": "binomial", "factorial": "factorial", "Rational": "rational",
    "conjugate": "conjugate", "nCr": "binomial", "comb": "binomial", "Pr": "Pr", "Var": "Var", "Cov": "Cov", "sup": "sup", "inf_of": "inf_of",
    "root": "root", "log10": "lg", "log2": "log2", "sum_of": "sum_of", "ord": "ord", "lub": "lub", "sinc": "sinc", "Ei": "Ei", "Si": "Si",
}
TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "sec", "csc", "cot", "sinh", "cosh", "tanh", "sech", "csch", "coth"])
CONSTANTS = {"pi": "pi", "infinity": "infinity", "infty": "infinity", "inf": "infinity", "oo": "infinity", "Infinity": "infinity", "INF": "infinity",
             "e": "e", "E": "E", "i": "i", "imath": "i", "mathrm{i}": "i", "nan": "nan"}
RELATIONS = {
    "=": "=", "==": "=", ":=": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", "<>": "!=", r"\lt": "<", r"\gt": ">", r"\le": "<=",
    r"\leq": "<=", r"\leqslant": "<=", r"\leqq": "<=", r"\ge": ">=", r"\geq": ">=", r"\geqslant": ">=", r"\geqq": ">=", r"\ne": "!=", r"\neq": "!=", r"\in": "in",
    r"\notin": "notin", r"\approx": "~", r"\simeq": "~", r"\doteq": "~", r"\equiv": "equiv", r"\cong": "cong", r"\sim": "sim", r"\to": "to", r"\rightarrow": "to", "->": "to",
    r"\mapsto": "mapsto", r"\implies": "implies", r"\Rightarrow": "implies", "=>": "implies", r"\iff": "iff", r"\Leftrightarrow": "iff", "<=>": "iff", r"\subset": "subset",
    r"\subseteq": "subseteq", r"\supset": "supset", r"\parallel": "parallel", r"\perp": "perp", r"\propto": "propto", r"\mid": "divides", r"\nmid": "notdivides",
    r"\land": "land", r"\lor": "lor", r"\wedge": "land", r"\vee": "lor",
}
MAGNITUDES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
ACCENTS = frozenset(["overline", "bar", "vec", "hat", "tilde", "dot", "ddot", "widehat", "widetilde", "overrightarrow", "overleftrightarrow", "underline", "overset", "mathring", "breve", "check", "acute", "overbrace", "underbrace", "cancel", "overarc", "wideparen"])
SEPARATORS = frozenset(["and", "or", "und", "et", "y", "ou", "且", "或", "和"]) - {"y"}


def tokenize(text: str, grouping: bool) -> Iterator[Token]:
    """The tokens of a clean text; `grouping` reads `1,234` as one number. Raises `Unparsed` on a character out of place."""
    spaced = False
    for match in SCANNERS[grouping].finditer(text):
        kind = match.lastgroup
        match kind:
            case "space":
                spaced = True
                continue
            case "number":
                yield Token("number", re.sub("[, ]", "", match["number"]), spaced)
            case "repeating":
                yield Token("number", match[0], spaced)
            case "text":
                yield from _text_tokens(match["face"], match["text"], spaced)
            case "command" | "name" | "sign":
                yield Token(kind, match[0], spaced)
            case _:
                raise Unparsed
        spaced = False
    yield Token("end", "", spaced)


def _text_tokens(face: str, content: str, spaced: bool) -> Iterator[Token]:
    """Text commands hold functions, single letters, separators or words."""
    words = content.strip()
    if face in ("mathbb", "mathcal", "mathfrak"):
        yield Token("command", "\\" + face + words, spaced)
    elif words.lower().strip(" ,") in SEPARATORS:
        yield Token("sign", ",", spaced)
    elif words in ("%", r"\%"):
        yield Token("sign", "%", spaced)
    elif not words:
        return
    elif words in MAGNITUDES or words in FUNCTIONS or len(words) == 1 and words.isalpha() or words in ("pi", "DNE"):
        yield Token("name", words, spaced)
    elif re.match(r"[-+]?\.?\d", words):
        yield from (token for token in tokenize(words, True) if token.kind != "end")
    else:
        yield Token("text", words, spaced)


def children(node: Node) -> Iterator[Node]:
    """The direct parts of a node."""
    match node:
        case Op(_, args):
            yield from args
        case Group(_, items):
            yield from items
        case Relation(_, sides):
            yield from sides
        case Matrix(rows):
            for row in rows:
                yield from row
        case _:
            return


def walk(node: Node) -> Iterator[Node]:
    """The node and all its parts."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(children(node))


def depth(node: Node) -> int:
    """How deep the node's deepest part lies."""
    deepest, layer = 0, [node]
    while layer:
        deepest += 1
        layer = [child for parent in layer for child in children(parent)]
    return deepest
