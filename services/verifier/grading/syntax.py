"""The syntax trees of answers."""

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


Bracket = Literal["bare", "either", "tuple", "list", "set", "(]", "[)", "builder", "()", "[]"]


@dataclass(frozen=True, slots=True)
class Group:
    """Several items: a bare list, inequalities of which one holds, a tuple `(a, b)`, a list `[a, b]`, a set, a
    half-open interval, or a set builder (item, condition)."""

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
