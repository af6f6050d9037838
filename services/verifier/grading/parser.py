r"""A tolerant but complete reader of answers: LaTeX and Python spellings in one grammar, all of the text or nothing.

It never evaluates anything, takes bounded steps for a bounded text, and raises `Unparsed` rather than read half of a
formula. Precedence, loosest first: list, relation, union, sum, product, sign, power, postfix.
"""

from fractions import Fraction
from functools import lru_cache

from services.verifier.grading.commands import Commands, has_differential
from services.verifier.grading.cost import MAX_DEPTH, MAX_TOKENS
from services.verifier.grading.syntax import Group, Node, Num, Op, Relation, Sym, Text, Unparsed, depth
from services.verifier.grading.tokens import tokenize
from services.verifier.grading.vocabulary import (
    ACCENTS,
    ATOMS,
    CONSTANTS,
    FUNCTIONS,
    GREEK,
    PRODUCT_SIGNS,
    RELATIONS,
    SEPARATORS,
)


@lru_cache(maxsize=8192)
def parse(text: str, grouping: bool = True) -> Node:
    """The node of a clean text; raises `Unparsed`."""
    tokens = list(tokenize(text, grouping))
    if len(tokens) > MAX_TOKENS:
        raise Unparsed
    parser = Parser(tokens)
    try:
        node = parser.statement(("end",))
    except RecursionError:
        raise Unparsed from None
    parser.expect_end()
    if depth(node) > MAX_DEPTH:
        raise Unparsed
    return node


class Parser(Commands):
    """Lists, relations, sums, products, powers."""

    def _relation(self) -> Node:
        if self._is("=", r"\approx") and self._at == 0:
            self._at += 1
        sides: list[Node] = [self._ratio()]
        signs: list[str] = []
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
        while (self._is(":") and self._at > 0 and not self._bars) or self._is_between_numbers("to"):
            self._at += 1
            parts.append(self._union())
        return Op("ratio", tuple(parts)) if len(parts) > 1 else parts[0]

    def _is_between_numbers(self, word: str) -> bool:
        return (
            self._now.text == word
            and self._now.kind == "name"
            and self._at > 0
            and self._tokens[self._at - 1].kind == "number"
            and self._peek().kind == "number"
        )

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

    def _sum(self) -> Node:
        terms = [self._term()]
        while not (self._differentials and has_differential(terms[-1])):
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
        if self._is("+") and self._peek().text == "-" and self._at == 0:
            self._at += 2
            return Op("pm", (self._term(),))
        if self._accept("+"):
            return self._term()
        if self._is(r"\pm", r"\mp"):
            return Op(self._take().text[1:], (self._term(),))
        node = self._factor()
        while True:
            if (
                self._now.kind in ("sign", "command")
                and self._now.text in PRODUCT_SIGNS
                and not (self._is(r"\circ") and self._peek().kind == "end")
            ):
                name = PRODUCT_SIGNS[self._take().text]
                sign = self._take().text if self._is("-", "+") else "+"
                right = self._factor() if sign == "+" else Op("neg", (self._factor(),))
                if (
                    name == "div"
                    and isinstance(right, Num | Sym)
                    and not (isinstance(node, Num) and isinstance(right, Num))
                ):
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
                    if isinstance(node, Text) and not any(map(str.isalnum, node.words)):
                        node = Op("mul", (node, right))
                        continue
                    if not isinstance(node, Sym) or right.digits is not None or len(node.name) > 1:
                        raise Unparsed
                    node = Sym(f"{node.name}_{right.value}")
                    continue
                node = Op("mul", (node, right))
            else:
                return node

    def _denominator(self, first: Node) -> Node:
        """`a/bc` is a over bc when nothing separates b and c."""
        node = first
        while (
            self._starts_factor()
            and not self._now.spaced
            and self._now.kind in ("name", "command")
            and self._now.text not in FUNCTIONS
            and self._now.text[1:] not in FUNCTIONS
        ):
            node = Op("mul", (node, self._factor()))
        return node

    def _mixed(self, node: Node) -> Node | None:
        r"""`1 1/2` and `1\frac{1}{2}` after the whole number; None where no mixed number stands."""
        if not (
            isinstance(node, Num)
            and node.digits is None
            and node.value.denominator == 1
            and self._tokens[self._at - 1].kind == "number"
        ):
            return None
        if (
            self._now.kind == "number"
            and self._peek().text == "/"
            and self._peek(2).kind == "number"
            and self._now.spaced
        ):
            top, bottom = self._now.text, self._peek(2).text
            if top.isdigit() and bottom.isdigit() and int(bottom) and int(top) < int(bottom):
                self._at += 3
                return Num(node.value + Fraction(int(top), int(bottom)))
        if self._is(r"\frac"):
            start = self._at
            fraction = self._atom()
            match fraction:
                case Op("div", (Num(top, None), Num(bottom, None))) if (
                    bottom and top.denominator == bottom.denominator == 1 and 0 < top < bottom
                ):
                    return self._postfix(Num(node.value + top / bottom))
                case _:
                    self._go_back(start)
        return None

    def _starts_factor(self) -> bool:
        token = self._now
        if token.kind in ("number", "text"):
            return True
        if token.kind == "name":
            return (
                token.text.lower() not in SEPARATORS
                and not (token.text == "in" and not self._bars)
                and not self._is_between_numbers("to")
                and not (token.text in "Uu" and self._peek().text in ("(", "["))
            )
        if token.kind == "sign":
            return token.text in "([{" or (token.text == "|" and self._bars == 0) or token.text in "€£¥₹"
        if token.kind == "command":
            name = token.text[1:]
            return (
                token.text not in RELATIONS
                and token.text not in PRODUCT_SIGNS
                and (
                    name in FUNCTIONS
                    or name in GREEK
                    or name in CONSTANTS
                    or name in ACCENTS
                    or name in ATOMS
                    or token.text in (r"\{", r"\$", r"\|")
                    or name.startswith("math")
                )
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
                if self._peek().text in (r"\circ", r"\degree") or (
                    self._peek().text == "{"
                    and self._peek(2).text in (r"\circ", r"\degree")
                    and self._peek(3).text == "}"
                ):
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
            elif (
                self._is("%", r"\%")
                or (self._now.kind == "name" and self._now.text.lower() in ("percent", "percentage", "pct"))
                or (self._now.kind == "text" and self._now.text.lower() in ("percent", "percentage", "pct"))
            ):
                self._at += 1
                node = Op("percent", (node,))
            elif self._is("_"):
                self._at += 1
                node = self._subscripted(node, self._subscript())
            else:
                return node

    def _starts_after_circ(self) -> bool:
        following = self._peek()
        return (
            self._is(r"\circ")
            and following.kind in ("name", "command")
            and following.text not in ("C", "F")
            and following.text not in RELATIONS
        )

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
        if (
            self._is("{")
            and self._peek().text in ("*", "+", "-", r"\ast", r"\dagger", "T", r"\top")
            and self._peek(2).text == "}"
        ):
            self._at += 3
            return Sym("^" + self._tokens[self._at - 2].text)
        if self._is("*", r"\ast", r"\top") or (
            self._is("+", "-") and (self._peek().kind == "end" or self._peek().text in "})")
        ):
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

    def _subscripted(self, node: Node, subscript: str) -> Node:
        match node:
            case Sym(name):
                return Sym(f"{name}_{subscript}")
            case Num() | Group() | Op():
                return Op(f"sub:{subscript}", (node,))
            case _:
                raise Unparsed
