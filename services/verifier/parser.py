r"""A tolerant but complete reader of answers: LaTeX and Python spellings in one grammar, all of the text or nothing.

It never evaluates anything, takes bounded steps for a bounded text, and raises `Unparsed` rather than read half of a
formula. Precedence, loosest first: list, relation, union, sum, product, sign, power, postfix.
"""

import re
from fractions import Fraction
from functools import lru_cache

from services.verifier.cost import MAX_DEPTH, MAX_TOKENS
from services.verifier.syntax import (
    ACCENTS,
    CONSTANTS,
    FUNCTIONS,
    GREEK,
    MAGNITUDES,
    RELATIONS,
    SEPARATORS,
    TRIGONOMETRIC,
    Group,
    Matrix,
    Node,
    Num,
    Op,
    Relation,
    Sym,
    Text,
    Token,
    Unparsed,
    depth,
    tokenize,
    walk,
)

CLOSERS = {"(": ")]", "[": ")]", r"\{": (r"\}",), r"\lbrace": (r"\rbrace",), r"\langle": (r"\rangle",), "{": "}", r"\lbrack": ("]", r"\rbrack"), r"\lparen": (")",)}
STOP_WORDS = frozenset("is are the a an of for to in on with where when if then because so since that this which by at from per each there we you it its as has have".split())
PRODUCT_SIGNS = {"*": "mul", r"\cdot": "mul", r"\times": "mul", r"\ast": "mul", "/": "div", r"\div": "div", r"\bullet": "mul", r"\star": "star", r"\circ": "compose", r"\otimes": "otimes", r"\bmod": "mod", r"\mod": "mod"}
SAME_ACCENT = {"bar": "overline", "overrightarrow": "vec", "widehat": "hat", "widetilde": "tilde"}
ONE = Num(Fraction(1))
MATRICES = frozenset(["matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix", "array", "cases", "aligned", "align", "align*", "gathered", "split", "rcases", "dcases"])


@lru_cache(maxsize=8192)
def parse(text: str, grouping: bool = True) -> Node:
    """The node of a clean text; raises `Unparsed`."""
    tokens = list(tokenize(text, grouping))
    if len(tokens) > MAX_TOKENS:
        raise Unparsed
    parser = _Parser(tokens)
    try:
        node = parser.statement(("end",))
    except RecursionError:
        raise Unparsed from None
    parser.expect_end()
    if depth(node) > MAX_DEPTH:
        raise Unparsed
    return node


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._bars = 0
        self._differentials = 0

    # -- tokens ------------------------------------------------------------------------------------------------------

    @property
    def _now(self) -> Token:
        return self._tokens[self._at]

    def _peek(self, ahead: int = 1) -> Token:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def _take(self) -> Token:
        token = self._tokens[self._at]
        if token.kind != "end":
            self._at += 1
        return token

    def _is(self, *texts: str) -> bool:
        return self._now.text in texts and self._now.kind not in ("text", "end")

    def _accept(self, *texts: str) -> bool:
        if self._is(*texts):
            self._at += 1
            return True
        return False

    def _require(self, *texts: str) -> None:
        if not self._accept(*texts):
            raise Unparsed

    def expect_end(self) -> None:
        """Raise `Unparsed` where tokens are left."""
        if self._now.kind != "end":
            raise Unparsed

    # -- lists and relations -----------------------------------------------------------------------------------------

    def statement(self, closers: tuple[str, ...]) -> Node:
        """Items up to a closer (not taken); one item stands for itself."""
        items = self._items(closers)
        return items[0] if len(items) == 1 else Group("bare", tuple(items))

    def _items(self, closers: tuple[str, ...]) -> list[Node]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unparsed
        items: list[Node] = []
        while not self._closes(closers):
            if self._separator():
                continue
            items.append(self._relation())
            if not self._closes(closers) and not self._separator():
                raise Unparsed
        self._depth -= 1
        return items

    def _closes(self, closers: tuple[str, ...]) -> bool:
        return self._now.kind == "end" or self._is(*closers)

    def _separator(self) -> bool:
        if self._is(",", ";", r"\\", "&", r"\&") or (self._now.kind == "name" and self._now.text.lower() in SEPARATORS):
            self._at += 1
            return True
        return False

    def _relation(self) -> Node:
        if self._is("=", r"\approx") and self._at == 0:
            self._at += 1
        sides, signs = [self._ratio()], []
        while (sign := self._relation_sign()) is not None:
            signs.append(sign)
            sides.append(self._ratio())
        return Relation(tuple(signs), tuple(sides)) if signs else sides[0]

    def _relation_sign(self) -> str | None:
        token = self._now
        if token.kind in ("sign", "command") and token.text in RELATIONS and not (token.text == r"\mid" and self._bars):
            self._at += 1
            if token.text in ("<", ">") and self._is("="):
                self._at += 1
                return token.text + "="
            return RELATIONS[token.text]
        if token.text == r"\not" and self._peek().text in ("=", r"\in", "<", ">"):
            self._at += 2
            return {"=": "!=", r"\in": "notin", "<": ">=", ">": "<="}[self._tokens[self._at - 1].text]
        if token.kind == "name" and token.text == "in" and self._at > 0:
            self._at += 1
            return "in"
        return None

    def _ratio(self) -> Node:
        parts = [self._union()]
        while self._is(":") and self._at > 0:
            self._at += 1
            parts.append(self._union())
        return Op("ratio", tuple(parts)) if len(parts) > 1 else parts[0]

    def _union(self) -> Node:
        node = self._sum()
        while True:
            if self._accept(r"\cup", r"\bigcup"):
                node = Op("union", (node, self._sum()))
            elif self._accept(r"\cap"):
                node = Op("intersection", (node, self._sum()))
            elif self._accept(r"\setminus", r"\backslash", "\\"):
                node = Op("difference", (node, self._sum()))
            elif self._is("U", "u") and isinstance(node, Group) and self._peek().text in ("(", "[", r"\{", "{"):
                self._at += 1
                node = Op("union", (node, self._sum()))
            else:
                return node

    # -- sums, products, powers --------------------------------------------------------------------------------------

    def _sum(self) -> Node:
        terms = [self._term()]
        while not (self._differentials and _has_differential(terms[-1])):
            if self._accept("+"):
                terms.append(self._term())
            elif self._accept("-"):
                terms.append(Op("neg", (self._term(),)))
            elif self._is(r"\pm", r"\mp"):
                terms.append(Op(self._take().text[1:], (self._term(),)))
            else:
                break
        return terms[0] if len(terms) == 1 else Op("add", tuple(terms))

    def _term(self) -> Node:
        if self._accept("-"):
            return Op("neg", (self._term(),))
        if self._accept("+"):
            return self._term()
        if self._is(r"\pm", r"\mp"):
            return Op(self._take().text[1:], (self._term(),))
        node = self._factor()
        while True:
            if self._now.kind in ("sign", "command") and self._now.text in PRODUCT_SIGNS and not (self._is(r"\circ") and self._peek().kind == "end"):
                name = PRODUCT_SIGNS[self._take().text]
                right = Op("neg", (self._factor(),)) if self._accept("-") else self._factor() if not self._accept("+") else self._factor()
                if name == "div" and isinstance(right, Num | Sym) and not (isinstance(node, Num) and isinstance(right, Num)):
                    right = self._denominator(right)
                node = Op(name, (node, right))
            elif self._starts_factor():
                spaced, start = self._now.spaced, self._now
                mixed = self._mixed(node)
                if mixed is not None:
                    node = mixed
                    continue
                if start.kind == "number" and isinstance(node, Num):
                    raise Unparsed
                right = self._factor()
                if isinstance(right, Num) and not spaced and isinstance(node, Sym | Text):
                    raise Unparsed
                node = Op("mul", (node, right))
            else:
                return node

    def _denominator(self, first: Node) -> Node:
        """`a/bc` is a over bc when nothing separates b and c."""
        node = first
        while self._starts_factor() and not self._now.spaced and self._now.kind in ("name", "command") and self._now.text not in FUNCTIONS and self._now.text[1:] not in FUNCTIONS:
            node = Op("mul", (node, self._factor()))
        return node

    def _mixed(self, node: Node) -> Node | None:
        r"""`1 1/2` and `1\frac{1}{2}` after the whole number; None where no mixed number stands."""
        if not (isinstance(node, Num) and node.digits is None and node.value.denominator == 1 and self._tokens[self._at - 1].kind == "number"):
            return None
        if self._now.kind == "number" and self._peek().text == "/" and self._peek(2).kind == "number" and self._now.spaced:
            top, bottom = self._now.text, self._peek(2).text
            if top.isdigit() and bottom.isdigit() and int(bottom) and int(top) < int(bottom):
                self._at += 3
                return Num(node.value + Fraction(int(top), int(bottom)))
        if self._is(r"\frac"):
            start = self._at
            fraction = self._atom()
            match fraction:
                case Op("div", (Num(top, None), Num(bottom, None))) if bottom and top.denominator == bottom.denominator == 1 and 0 < top < bottom:
                    return self._postfix(Num(node.value + top / bottom))
                case _:
                    self._at = start
        return None

    def _starts_factor(self) -> bool:
        token = self._now
        if token.kind in ("number", "text"):
            return True
        if token.kind == "name":
            return token.text.lower() not in SEPARATORS and not (token.text == "in" and not self._bars) and not (token.text in "Uu" and self._peek().text in ("(", "["))
        if token.kind == "sign":
            return token.text in "([{" or (token.text == "|" and self._bars == 0) or token.text in "€£¥₹"
        if token.kind == "command":
            name = token.text[1:]
            return token.text not in RELATIONS and token.text not in PRODUCT_SIGNS and (
                name in FUNCTIONS or name in GREEK or name in CONSTANTS or name in ACCENTS or name in _ATOMS or token.text in (r"\{", r"\$", r"\|") or name.startswith("math")
            )
        return False

    def _factor(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unparsed
        node = self._postfix(self._atom())
        self._depth -= 1
        return node

    def _postfix(self, node: Node) -> Node:
        while True:
            if self._is("^", "**"):
                if self._peek().text in (r"\circ", r"\degree") or (self._peek().text == "{" and self._peek(2).text in (r"\circ", r"\degree") and self._peek(3).text == "}"):
                    self._at += 2 if self._peek().text != "{" else 4
                    node = self._degrees(node)
                    continue
                self._at += 1
                primes = self._primes()
                node = Op("prime", (node, Num(Fraction(primes)))) if primes else Op("pow", (node, self._exponent()))
            elif self._is(r"\degree", r"\circ") and not self._starts_after_circ():
                self._at += 1
                node = self._degrees(node)
            elif self._is("!") and self._peek().text != "=":
                self._at += 1
                node = Op("factorial2", (node,)) if self._accept("!") else Op("factorial", (node,))
            elif self._is("'"):
                count = 0
                while self._accept("'"):
                    count += 1
                node = Op("prime", (node, Num(Fraction(count))))
            elif self._is("%", r"\%"):
                self._at += 1
                node = Op("percent", (node,))
            elif self._now.kind == "name" and self._now.text.lower() in ("percent", "percentage", "pct") or (self._now.kind == "text" and self._now.text.lower() in ("percent", "percentage", "pct")):
                self._at += 1
                node = Op("percent", (node,))
            elif self._is("_"):
                self._at += 1
                node = self._subscripted(node, self._subscript())
            else:
                return node

    def _starts_after_circ(self) -> bool:
        following = self._peek()
        return self._is(r"\circ") and following.kind in ("name", "command") and following.text not in ("C", "F") and following.text not in RELATIONS

    def _degrees(self, node: Node) -> Node:
        if self._now.kind in ("name", "text") and self._now.text in ("C", "F", "Celsius", "Fahrenheit"):
            self._at += 1
            return node
        return Op("degrees", (node,))

    def _primes(self) -> int:
        count = 0
        if self._is(r"\prime"):
            while self._accept(r"\prime"):
                count += 1
        elif self._is("{") and self._peek().text == r"\prime":
            self._at += 1
            while self._accept(r"\prime"):
                count += 1
            self._require("}")
        return count

    def _exponent(self) -> Node:
        if self._is("-", "+") and self._peek().kind != "end" and self._peek().text not in ("}", ")"):
            return Op("neg", (self._exponent(),)) if self._take().text == "-" else self._exponent()
        if self._is("{") and self._peek().text in ("*", "+", "-", r"\ast", r"\dagger", "T", r"\top") and self._peek(2).text == "}":
            self._at += 3
            return Sym("^" + self._tokens[self._at - 2].text)
        if self._is("*", r"\ast", r"\top") or (self._is("+", "-") and (self._peek().kind == "end" or self._peek().text in "})")):
            return Sym("^" + self._take().text)
        node = self._atom()
        while self._is("!", "_"):
            node = Op("factorial", (node,)) if self._accept("!") else self._subscripted(node, self._take_subscript())
        if self._is("^", "**"):
            self._at += 1
            return Op("pow", (node, self._exponent()))
        return node

    def _take_subscript(self) -> str:
        self._at += 1
        return self._subscript()

    def _subscript(self) -> str:
        """The text of a subscript, without layout."""
        if not self._accept("{"):
            return self._take().text.lstrip("\\")
        start, depth = self._at, 1
        while depth:
            token = self._take()
            if token.kind == "end":
                raise Unparsed
            depth += (token.text == "{") - (token.text == "}")
        return "".join(token.text for token in self._tokens[start : self._at - 1]).replace("\\", "")

    def _subscripted(self, node: Node, subscript: str) -> Node:
        match node:
            case Sym(name):
                return Sym(f"{name}_{subscript}")
            case Num() | Group() | Op():
                return Op(f"sub:{subscript}", (node,))
            case _:
                raise Unparsed

    # -- atoms -------------------------------------------------------------------------------------------------------

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
        if name in FUNCTIONS and (len(name) > 2 or name in ("ln", "lg", "Re", "Im", "tr") or self._is("(")):
            return self._function(FUNCTIONS[name])
        if name in CONSTANTS:
            return Sym(CONSTANTS[name])
        if name in GREEK or name in MAGNITUDES:
            return Sym(name)
        if len(name) == 1:
            return self._application(name)
        for length in (6, 5, 4, 3, 2):
            suffix = name[-length:]
            if suffix in FUNCTIONS and 0 < len(name) - length <= 2 and self._is("(", "{"):
                self._tokens[self._at - 1] = Token("name", suffix, False)
                self._at -= 1
                return _product([_letter(letter) for letter in name[:-length]])
        if self._differentials and len(name) == 2 and name[0] == "d":
            return Sym("@" + name[1])
        if name.startswith("pi") and len(name) == 3:
            return Op("mul", (Sym("pi"), _letter(name[2])))
        if len(name) <= 3 and name.lower() not in STOP_WORDS and not self._is_word(token):
            *letters, last = name
            if self._is("^", "**", "_", "'", "!"):
                return _product([*map(_letter, letters), self._postfix(_letter(last))])
            return _product([_letter(letter) for letter in name])
        return Sym(name)

    def _is_word(self, token: Token) -> bool:
        """A run of letters is a word where it stands among words."""
        index = self._at - 1
        before = self._tokens[index - 1] if index > 0 else None
        after = self._tokens[self._at]
        return any(near is not None and near.kind == "name" and len(near.text) > 1 and near.text not in FUNCTIONS and near.text.lower() not in SEPARATORS for near in (before, after)) or (
            token.spaced and before is not None and before.kind == "number"
        )

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
            self._at = start
        return _letter(name)

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
            items = self._items(("}",))
            self._require("}")
        except Unparsed:
            self._at, self._depth, self._bars = start, depth, 1
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
        if opening == "(" and closing == "]" or opening == "[" and closing == ")":
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
        if power is not None and name in TRIGONOMETRIC and power == Op("neg", (ONE,)):
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

    def _argument(self) -> Node:
        """A LaTeX argument: a braced statement, a digit, or an atom."""
        token = self._now
        if token.text == "{" and token.kind == "sign":
            self._at += 1
            bars, self._bars = self._bars, 0
            node = self.statement(("}",))
            self._require("}")
            self._bars = bars
            if node == Group("bare", ()):
                raise Unparsed
            return node
        return self._atom()

    def _digit_argument(self) -> Node:
        r"""As `_argument`, but `\frac12` takes one digit at a time."""
        token = self._now
        if token.kind == "number" and token.text.isdigit() and len(token.text) > 1:
            self._tokens[self._at] = Token("number", token.text[1:], False)
            return Num(Fraction(int(token.text[0])))
        if token.kind == "name" and len(token.text) > 1 and token.text not in FUNCTIONS and token.text not in CONSTANTS:
            self._tokens[self._at] = Token("name", token.text[1:], False)
            return _letter(token.text[0])
        return self._argument()

    def _command(self, token: Token) -> Node:
        name = token.text[1:]
        if name in FUNCTIONS:
            return self._function(FUNCTIONS[name])
        if name in CONSTANTS:
            return Sym(CONSTANTS[name])
        if name in GREEK:
            return Sym({"varepsilon": "epsilon", "varphi": "phi", "vartheta": "theta", "varrho": "rho"}.get(name, name))
        if name in ACCENTS:
            return Op(f"accent:{SAME_ACCENT.get(name, name)}", (self._argument(),))
        if name.startswith("math"):
            return Sym(name[6:] if name.startswith("mathbb") else name)
        match name:
            case "frac":
                return self._fraction()
            case "binom" | "tbinom" | "dbinom" | "choose":
                return Op("binomial", (self._digit_argument(), self._digit_argument()))
            case "{" | "lbrace":
                bars, self._bars = self._bars, 1
                items = self._items((r"\}", r"\rbrace", "|", r"\mid", ":"))
                if self._is("|", r"\mid", ":"):
                    self._bars = 0
                    return self._builder(items, self._closing_brace(), bars)
                self._require(r"\}", r"\rbrace")
                self._bars = bars
                return Group("set", tuple(items))
            case "emptyset" | "varnothing":
                return Group("set", ())
            case "langle":
                items = self._items((r"\rangle",))
                self._require(r"\rangle")
                return Group("tuple", tuple(items))
            case "lfloor" | "lceil" | "lvert" | "vert" | "|" | "lVert" | "Vert":
                closing, function = _FENCES[name]
                inside = self.statement((closing,))
                self._require(closing)
                return Op(function, (inside,))
            case "begin":
                return self._environment()
            case "int" | "iint" | "iiint" | "oint":
                return self._integral(name)
            case "sum" | "prod":
                return self._series(name)
            case "lim":
                return self._limit()
            case "ldots" | "dots" | "cdots" | "vdots" | "ddots" | "dotsc":
                return Sym("...")
            case "pmod":
                return Op("pmod", (self._argument(),))
            case "$" | "pounds" | "euro":
                return self._factor()
            case "partial":
                return Sym("@partial")
            case "nabla" | "complement" | "top" | "bot" | "triangle" | "angle" | "square" | "dagger" | "heartsuit" | "spadesuit" | "diamondsuit" | "clubsuit" | "Re" | "Im":
                return Sym("\\" + name)
            case _:
                raise Unparsed

    def _closing_brace(self) -> str:
        for token in self._tokens[self._at :]:
            if token.text in (r"\}", r"\rbrace"):
                return token.text
        raise Unparsed

    def _fraction(self) -> Node:
        derivative = self._derivative()
        if derivative is not None:
            return derivative
        top = self._digit_argument()
        return Op("div", (top, self._digit_argument()))

    def _derivative(self) -> Node | None:
        r"""`\frac{d}{dx} f`, `\frac{d^2}{dx^2} f`, `\frac{dy}{dx}`; None where no such fraction stands."""
        text = ""
        depth, index, braces = 0, self._at, 0
        while braces < 2 and index < len(self._tokens) and index - self._at < 24:
            token = self._tokens[index]
            depth += (token.text == "{") - (token.text == "}")
            text += token.text
            braces += token.text == "}" and depth == 0
            index += 1
            if depth == 0 and token.text != "}":
                return None
        match = re.fullmatch(r"\{(?:d|\\partial)(?:\^\{?(\d)\}?)?([A-Za-z]?)\}\{(?:d|\\partial)([A-Za-z])(?:\^\{?(\d)\}?)?\}", text)
        if not match:
            return None
        self._at = index
        order = Num(Fraction(int(match[1] or 1)))
        if match[2]:
            return Op("derivative", (Sym(match[2]), Sym(match[3]), order))
        return Op("derivative", (self._implicit_argument() if not self._is("(", "[") else self._factor(), Sym(match[3]), order))

    def _bounds(self) -> tuple[Node | None, Node | None]:
        low = high = None
        while self._is("_", "^"):
            if self._take().text == "_":
                low = self._argument()
            else:
                high = self._argument()
        return low, high

    def _integral(self, name: str) -> Node:
        self._accept(r"\limits")
        low, high = self._bounds()
        self._differentials += 1
        body = self._sum()
        self._differentials -= 1
        variables = sorted({node.name for node in walk(body) if isinstance(node, Sym) and node.name.startswith("@")})
        if not variables:
            raise Unparsed
        bounds = tuple(bound for bound in (low, high) if bound is not None)
        return Op(f"integral:{name}:{','.join(variables)}", (body, *bounds))

    def _series(self, name: str) -> Node:
        low, high = self._bounds()
        body = self._term()
        if low is None:
            raise Unparsed
        match low:
            case Relation(("=",), (Sym(variable), start)) if high is not None:
                return Op(f"series:{name}:{variable}", (body, start, high))
            case _:
                return Op(f"series:{name}:", (body, low, *([high] if high is not None else [])))

    def _limit(self) -> Node:
        low, _ = self._bounds()
        match low:
            case Relation(("to",), (Sym(variable), target)):
                return Op(f"limit:{variable}", (self._term(), target))
            case _:
                raise Unparsed

    def _environment(self) -> Node:
        self._require("{")
        name = self._take().text
        if self._accept("*"):
            name += "*"
        self._require("}")
        if name not in MATRICES:
            raise Unparsed
        if name == "array":
            if self._is("["):
                self._items(("]",))
                self._require("]")
            self._require("{")
            while not self._accept("}"):
                if self._take().kind == "end":
                    raise Unparsed
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while not self._is(r"\end"):
            if self._now.kind == "end":
                raise Unparsed
            if self._accept(r"\hline"):
                continue
            if self._accept("&"):
                continue
            if self._accept(r"\\"):
                if row:
                    rows.append(tuple(row))
                row = []
                continue
            if self._accept(","):
                continue
            row.append(self._relation())
            if not self._is("&", r"\\", r"\end", ",", r"\hline"):
                raise Unparsed
        if row:
            rows.append(tuple(row))
        self._at += 1
        self._require("{")
        while not self._accept("}"):
            if self._take().kind == "end":
                raise Unparsed
        if name in ("cases", "rcases", "dcases", "aligned", "align", "align*", "gathered", "split"):
            lines: list[Node] = [cells[0] if len(cells) == 1 else Group("tuple", cells) for cells in rows]
            return Op("cases", tuple(lines)) if any(len(cells) > 1 for cells in rows) else Group("bare", tuple(lines))
        if not rows or len({len(cells) for cells in rows}) != 1:
            raise Unparsed
        return Op("det", (Matrix(tuple(rows)),)) if name == "vmatrix" else Matrix(tuple(rows))


_FENCES = {"lfloor": (r"\rfloor", "floor"), "lceil": (r"\rceil", "ceil"), "lvert": (r"\rvert", "abs"), "vert": (r"\vert", "abs"), "|": (r"\|", "norm"),
           "lVert": (r"\rVert", "norm"), "Vert": (r"\Vert", "norm")}
_ATOMS = frozenset(
    ["frac", "binom", "tbinom", "dbinom", "lbrace", "emptyset", "varnothing", "langle", "begin", "int", "iint", "iiint", "oint", "sum", "prod", "lim",
     "ldots", "dots", "cdots", "vdots", "ddots", "dotsc", "pmod", "pounds", "euro", "partial", "nabla", "complement", "top", "bot", "triangle", "angle",
     "square", "dagger", "lfloor", "lceil", "lvert", "lVert", "heartsuit", "spadesuit", "diamondsuit", "clubsuit"]
)


def _letter(letter: str) -> Sym:
    return Sym(CONSTANTS.get(letter, letter))


def _product(factors: list[Node]) -> Node:
    node = factors[0]
    for factor in factors[1:]:
        node = Op("mul", (node, factor))
    return node


def _has_differential(node: Node) -> bool:
    return any(isinstance(part, Sym) and part.name.startswith("@") for part in walk(node))


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
