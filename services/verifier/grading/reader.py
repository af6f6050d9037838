"""Where a parser stands in its tokens, and what every part of the grammar needs of that: lists, arguments,
subscripts."""

from fractions import Fraction

from services.verifier.grading.cost import MAX_DEPTH, spend
from services.verifier.grading.syntax import Group, Node, Num, Relation, Sym, Unparsed
from services.verifier.grading.tokens import Token
from services.verifier.grading.vocabulary import ALTERNATIVES, CONSTANTS, FUNCTIONS, SEPARATORS


class Reader:
    """A position in a list of tokens; the parts of the grammar are its subclasses, and `Parser` is all of them."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at: int = 0
        self._depth = 0
        self._bars = 0
        self._differentials: int = 0

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

    def _go_back(self, start: int) -> None:
        """Stand at an earlier token again, to read on in another way. What is read twice costs steps: brackets in
        brackets would be read twice at each level."""
        spend(4 + self._at - start)
        self._at = start

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

    def statement(self, closers: tuple[str, ...]) -> Node:
        """Items up to a closer (not taken); one item stands for itself."""
        start = self._at
        items = self._items(closers)
        if len(items) == 1:
            return items[0]
        joints = SEPARATORS & {token.text.lower() for token in self._tokens[start : self._at]}
        either = joints and joints <= ALTERNATIVES and all(map(is_bound, items))
        return Group("either" if either else "bare", tuple(items))

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
            return symbol(token.text[0])
        return self._argument()

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

    def _relation(self) -> Node:
        raise NotImplementedError

    def _sum(self) -> Node:
        raise NotImplementedError

    def _term(self) -> Node:
        raise NotImplementedError

    def _factor(self) -> Node:
        raise NotImplementedError

    def _postfix(self, node: Node) -> Node:
        raise NotImplementedError

    def _exponent(self) -> Node:
        raise NotImplementedError

    def _atom(self) -> Node:
        raise NotImplementedError

    def _starts_factor(self) -> bool:
        raise NotImplementedError


def is_bound(node: Node) -> bool:
    """Whether a node is an inequality."""
    return isinstance(node, Relation) and set(node.signs) <= {"<", ">", "<=", ">="}


def symbol(name: str) -> Sym:
    return Sym(CONSTANTS.get(name, name))
