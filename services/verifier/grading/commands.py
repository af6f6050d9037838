"""LaTeX commands: fractions, fences, derivatives, integrals, series, limits, matrices."""

import re
from fractions import Fraction

from services.verifier.grading.atoms import Atoms
from services.verifier.grading.syntax import Group, Matrix, Node, Num, Op, Relation, Sym, Unparsed, walk
from services.verifier.grading.tokens import Token
from services.verifier.grading.vocabulary import ACCENTS, CONSTANTS, FENCES, FUNCTIONS, GREEK, MATRICES, SAME_ACCENT


class Commands(Atoms):
    """What starts with a backslash."""

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
                closing, function = FENCES[name]
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
            case "angle" | "triangle" | "measuredangle" if self._now.kind in ("name", "command", "sign"):
                return self._factor()
            case (
                "nabla"
                | "complement"
                | "top"
                | "bot"
                | "triangle"
                | "angle"
                | "square"
                | "dagger"
                | "heartsuit"
                | "spadesuit"
                | "diamondsuit"
                | "clubsuit"
                | "Re"
                | "Im"
            ):
                return Sym("\\" + name)
            case _:
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
        match = re.fullmatch(
            r"\{(?:d|\\partial)(?:\^\{?(\d)\}?)?([A-Za-z]?)\}\{(?:d|\\partial)([A-Za-z])(?:\^\{?(\d)\}?)?\}", text
        )
        if not match:
            return None
        self._at = index
        order = Num(Fraction(int(match[1] or 1)))
        if match[2]:
            return Op("derivative", (Sym(match[2]), Sym(match[3]), order))
        return Op(
            "derivative",
            (self._implicit_argument() if not self._is("(", "[") else self._factor(), Sym(match[3]), order),
        )

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


def has_differential(node: Node) -> bool:
    return any(isinstance(part, Sym) and part.name.startswith("@") for part in walk(node))
