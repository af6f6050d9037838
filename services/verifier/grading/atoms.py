"""Numbers, names, brackets and functions."""

import re
from fractions import Fraction

from services.verifier.grading.reader import Reader, symbol
from services.verifier.grading.syntax import Group, Node, Num, Op, Sym, Text, Unparsed
from services.verifier.grading.tokens import Token
from services.verifier.grading.units import UNITS
from services.verifier.grading.vocabulary import (
    CONSTANTS,
    FUNCTIONS,
    GREEK,
    MAGNITUDES,
    SEPARATORS,
    STOP_WORDS,
    TRIGONOMETRIC,
)


class Atoms(Reader):
    """What stands alone in an expression, LaTeX commands apart."""

    def _command(self, token: Token) -> Node:
        raise NotImplementedError

    def _atom(self) -> Node:
        token = self._take()
        match token.kind:
            case "number":
                return self._number(token)
            case "text":
                return Text(token.text)
            case "name":
                return self._name(token)
            case "sign":
                return self._bracketed(token)
            case "command":
                return self._command(token)
            case "end":
                raise Unparsed

    def _number(self, token: Token) -> Node:
        number = read_numeral(token.text)
        if self._is("...", r"\ldots", r"\dots", r"\cdots") and number.digits is not None and self._peek().kind == "end":
            self._at += 1
            return repeat_last(token.text) or number
        if self._now.kind in ("name", "text") and self._now.text in ("repeating", "recurring"):
            self._at += 1
            return repeat_last(token.text) or number
        return number

    def _name(self, token: Token) -> Node:
        name = token.text
        if name in FUNCTIONS and name in UNITS and not self._starts_factor() and not self._is("^", "**", "_"):
            return Sym(name)  # `90 sec`, `5 min`
        if name in FUNCTIONS and (len(name) > 2 or name in ("ln", "lg", "Re", "Im", "tr") or self._is("(")):
            return self._function(FUNCTIONS[name])
        if name in CONSTANTS:
            return Sym(CONSTANTS[name])
        if name in ("Matrix", "array") and self._is("("):
            return self._factor()
        if name in GREEK or name in MAGNITUDES:
            return Sym(name)
        if len(name) == 1:
            return self._application(name)
        for length in (6, 5, 4, 3, 2):
            suffix = name[-length:]
            if suffix in FUNCTIONS and 0 < len(name) - length <= 2 and self._is("(", "{"):
                self._tokens[self._at - 1] = Token("name", suffix, False)
                self._at -= 1
                return _product([symbol(letter) for letter in name[:-length]])
        if self._differentials and len(name) == 2 and name[0] == "d":
            return Sym("@" + name[1])
        if name.startswith("pi") and len(name) == 3:
            return Op("mul", (Sym("pi"), symbol(name[2])))
        if len(name) <= 3 and name.lower() not in STOP_WORDS and not self._is_word(token):
            *letters, last = name
            if self._is("^", "**", "_", "'", "!"):
                return _product([*map(symbol, letters), self._postfix(symbol(last))])
            return _product([symbol(letter) for letter in name])
        return Sym(name)

    def _is_word(self, token: Token) -> bool:
        """A run of letters is a word where it stands among words."""
        index = self._at - 1
        before = self._tokens[index - 1] if index > 0 else None
        after = self._tokens[self._at]
        return any(
            near is not None
            and near.kind == "name"
            and len(near.text) > 1
            and near.text not in FUNCTIONS
            and near.text.lower() not in SEPARATORS
            for near in (before, after)
        ) or (token.spaced and before is not None and before.kind == "number")

    def _application(self, name: str) -> Node:
        if name in "fghFGHPp" and not self._now.spaced:
            inverse = [token.text for token in self._tokens[self._at : self._at + 6]] == ["^", "{", "-", "1", "}", "("]
            self._at += 5 if inverse else 0
            if self._is("(") or (self._is("{") and self._peek().text == "("):
                return Op(f"apply:{name}{'-1' if inverse else ''}", self._arguments())
        if name in "CP" and self._is("("):
            start = self._at
            self._at += 1
            items = self._items((")",))
            self._require(")")
            if len(items) == 2:
                return Op("binomial" if name == "C" else "permutations", tuple(items))
            self._go_back(start)
        return symbol(name)

    def _bracketed(self, token: Token) -> Node:
        match token.text:
            case "|":
                self._bars += 1
                inside = self.statement(("|",))
                self._require("|")
                self._bars -= 1
                return Op("abs", (inside,))
            case "(" | "[":
                return self._parentheses(token.text)
            case "{":
                return self._braces()
            case "$" | "€" | "£" | "¥" | "₹":
                return self._factor()
            case "?" | "!":
                raise Unparsed
            case "...":
                return Sym("...")
            case _:
                raise Unparsed

    def _braces(self) -> Node:
        """A LaTeX group, a set in Python's spelling, or a set builder."""
        start, depth = self._at, self._depth
        bars, self._bars = self._bars, 0
        try:
            items = self._items(("}", r"\choose", r"\over"))
            if self._is(r"\choose", r"\over") and len(items) == 1:
                name = "binomial" if self._take().text == r"\choose" else "div"
                items = [Op(name, (items[0], self.statement(("}",))))]
            self._require("}")
        except Unparsed:
            self._go_back(start)
            self._depth, self._bars = depth, 1
            items = self._items(("}", "|", ":"))
            if not self._is("|", ":") or not items:
                raise
            return self._builder(items, "}", bars)
        self._bars = bars
        return items[0] if len(items) == 1 else Group("set", tuple(items))

    def _parentheses(self, opening: str) -> Node:
        bars, self._bars = self._bars, 0
        items = self._items((")", "]"))
        closing = self._take().text
        if closing not in (")", "]"):
            raise Unparsed
        self._bars = bars
        if (opening == "(" and closing == "]") or (opening == "[" and closing == ")"):
            if len(items) != 2:
                raise Unparsed
            return Group("(]" if opening == "(" else "[)", tuple(items))
        if len(items) == 1:
            return items[0] if opening == "(" else Group("list", tuple(items))
        if opening == "(" and closing == ")" and len(items) == 2 and self._is("_"):
            raise Unparsed
        return Group("tuple" if opening == "(" else "list", tuple(items))

    def _builder(self, items: list[Node], closing: str, bars: int) -> Node:
        self._at += 1
        condition = self.statement((closing,))
        self._require(closing)
        self._bars = bars
        return Group("builder", (items[0] if len(items) == 1 else Group("bare", tuple(items)), condition))

    def _closing_brace(self) -> str:
        for token in self._tokens[self._at :]:
            if token.text in (r"\}", r"\rbrace"):
                return token.text
        raise Unparsed

    def _function(self, name: str) -> Node:
        """A function's power, base and argument: `\\sin^2 x`, `\\log_2(8)`, `max(1, 2)`."""
        power: Node | None = None
        base: Node | None = None
        while self._is("^", "_", "**"):
            if self._accept("_"):
                base = self._argument() if name in ("log", "ln", "lg") else Sym(self._subscript())
            elif self._peek().text in (r"\circ",):
                break
            else:
                self._at += 1
                power = self._exponent()
        if name == "sqrt" and self._accept("["):
            index = self.statement(("]",))
            self._require("]")
            return Op("root", (self._argument(), index))
        if name == "sqrt":
            args: tuple[Node, ...] = (self._argument(),)
            args = args[0].items if isinstance(args[0], Group) and args[0].kind == "bare" else args
        elif self._is("(", "{", "[", "|") and not (self._is("|") and self._bars):
            args = self._arguments()
        else:
            args = (self._implicit_argument(),)
        if name in ("max", "min", "gcd", "lcm") and len(args) == 1 and isinstance(args[0], Group):
            args = args[0].items
        if power is not None and name in TRIGONOMETRIC and power == Op("neg", (Num(Fraction(1)),)):
            return Op("a" + name, args)
        if base is not None:
            args = (*args, base)
        if name == "rational":
            name = "div"
        node: Node = Op(name, args)
        return node if power is None else Op("pow", (node, power))

    def _arguments(self) -> tuple[Node, ...]:
        opening = self._now.text
        if opening == "|":
            return (self._factor(),)
        self._at += 1
        bars, self._bars = self._bars, 0
        closing = {"(": ")", "{": "}", "[": "]"}[opening]
        items = self._items((closing,))
        self._require(closing)
        self._bars = bars
        if len(items) == 1 and isinstance(items[0], Group) and items[0].kind == "tuple":
            return items[0].items
        return tuple(items) or (Text(""),)

    def _implicit_argument(self) -> Node:
        sign = self._accept("-")
        node = self._factor()
        while self._starts_factor() and not self._is_function() and not self._is("(", "["):
            if self._now.kind == "text" or (self._differentials and re.fullmatch(r"d[a-z]", self._now.text)):
                break
            node = Op("mul", (node, self._factor()))
        return Op("neg", (node,)) if sign else node

    def _is_function(self) -> bool:
        return self._now.text.lstrip("\\") in FUNCTIONS and self._now.text.lstrip("\\") not in ("re", "im")


def _product(factors: list[Node]) -> Node:
    node = factors[0]
    for factor in factors[1:]:
        node = Op("mul", (node, factor))
    return node


def read_numeral(text: str) -> Num:
    r"""A scanned numeral: integer, decimal, scientific, or a repeating decimal such as `0.1\overline{6}`."""
    repeating = re.fullmatch(r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{(\d+)\}|\((\d+)\))", text)
    if repeating:
        whole, plain, period = repeating[1] or "0", repeating[2], repeating[3] or repeating[4]
        return Num(_repeating(whole, plain, period))
    mantissa, _, exponent = text.lower().partition("e")
    power = int(exponent or 0)
    if abs(power) > 400 or len(mantissa) > 2000:
        raise Unparsed
    whole, point, decimals = mantissa.partition(".")
    value = Fraction(int(whole + decimals or "0")) * Fraction(10) ** (power - len(decimals))
    return Num(value, len(decimals) - power if point or power < 0 else None)


def _repeating(whole: str, plain: str, period: str) -> Fraction:
    scale = 10 ** len(plain)
    return Fraction(int(whole + plain or "0"), scale) + Fraction(int(period), scale * (10 ** len(period) - 1))


def repeat_last(text: str) -> Num | None:
    """`0.1666` said to repeat: its last digit goes on for ever; None where the text shows no repetition."""
    whole, _, decimals = text.partition(".")
    last = decimals[-1:]
    plain = decimals.rstrip(last)
    if len(decimals) - len(plain) >= 2:
        return Num(_repeating(whole or "0", plain, last))
    half = len(decimals) // 2
    if half and decimals[:half] == decimals[half : 2 * half] and len(decimals) % 2 == 0:
        return Num(_repeating(whole or "0", "", decimals[:half]))
    return None
