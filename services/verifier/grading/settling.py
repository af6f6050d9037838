"""One shape for answers that say the same in several: membership, signs, labels."""

from collections.abc import Callable

from services.verifier.grading.syntax import Group, Matrix, Node, Op, Relation, Sym, Text, walk
from services.verifier.grading.units import CONSTANT_NAMES


def settled(node: Node) -> Node:
    r"""The node with membership reduced to its set, `\pm` written out, and a reversed assignment turned round."""
    match node:
        case Relation(("in",), (_, Group("tuple" | "list" as kind, (_, _) as ends))):
            return Group("()" if kind == "tuple" else "[]", ends)
        case Relation(("in",), (_, inside)):
            return settled(inside)
        case Relation(("=",), (left, right)) if is_label(right) and not is_label(left):
            return Relation(("=",), (right, settled(left)))
        case Relation(("=" | "~", *_) as signs, (label, *rest)) if is_label(label) and len(rest) == 1:
            return Relation(("=",), (label, settled(rest[0]))) if signs else node
        case Group("bare", items):
            flat: list[Node] = []
            for item in items:
                single = settled(item)
                flat.extend(single.items if isinstance(single, Group) and single.kind == "bare" else [single])
            return Group("bare", tuple(_inherit_label(flat)))
        case Group("set", items):
            flat = []
            for item in items:
                flat.extend(both_signs(item))
            return Group("set", tuple(flat))
        case Group("list" | "tuple", (Matrix() as matrix,)):
            return matrix
        case Relation() | Matrix() | Group():
            return node
        case Op() if any(isinstance(part, Matrix) for part in walk(node)):
            return as_matrix(node) or node
        case _:
            variants = both_signs(node)
            return Group("bare", tuple(variants)) if len(variants) > 1 else node


def as_matrix(node: Node) -> Matrix | None:
    """The matrix that sums, multiples and transposes of matrices are, its entries not worked out; None for any other
    node."""
    match node:
        case Matrix():
            return node
        case Op("neg", (inner,)):
            return _each(as_matrix(inner), lambda cell: Op("neg", (cell,)))
        case Op("mul", (scalar, right)) if _is_scalar(scalar):
            return _each(as_matrix(right), lambda cell: Op("mul", (scalar, cell)))
        case Op("mul" | "div" as name, (left, scalar)) if _is_scalar(scalar):
            return _each(as_matrix(left), lambda cell: Op(name, (cell, scalar)))
        case Op("pow", (inner, Sym("T" | "^T" | "^\\top"))):
            matrix = as_matrix(inner)
            return None if matrix is None else Matrix(tuple(zip(*matrix.rows, strict=True)))
        case Op("add", terms):
            matrices = [matrix for matrix in map(as_matrix, terms) if matrix is not None]
            shapes = {(len(matrix.rows), len(matrix.rows[0])) for matrix in matrices}
            if len(matrices) < len(terms) or len(shapes) != 1:
                return None
            return Matrix(
                tuple(
                    tuple(Op("add", cells) for cells in zip(*rows, strict=True))
                    for rows in zip(*(matrix.rows for matrix in matrices), strict=True)
                )
            )
        case _:
            return None


def _is_scalar(node: Node) -> bool:
    return not any(isinstance(part, Matrix | Group) for part in walk(node))


def _each(matrix: Matrix | None, change: Callable[[Node], Node]) -> Matrix | None:
    return None if matrix is None else Matrix(tuple(tuple(map(change, row)) for row in matrix.rows))


def _inherit_label(items: list[Node]) -> list[Node]:
    """`n = 2, 3, 4` labels every item."""
    match items:
        case [Relation(("=",), (Sym() as label, _)), *rest] if rest and not any(
            isinstance(item, Relation) for item in rest
        ):
            return [items[0], *(Relation(("=",), (label, item)) for item in rest)]
        case _:
            return items


def both_signs(node: Node) -> list[Node]:
    r"""Both readings of an expression with `\pm` or `\mp`."""
    if not any(isinstance(part, Op) and part.name in ("pm", "mp") for part in walk(node)):
        return [node]
    return [_choose(node, True), _choose(node, False)]


def _choose(node: Node, plus: bool) -> Node:
    match node:
        case Op("pm" | "mp" as name, (inner,)):
            inner = _choose(inner, plus)
            return inner if plus == (name == "pm") else Op("neg", (inner,))
        case Op(name, args):
            return Op(name, tuple(_choose(arg, plus) for arg in args))
        case Relation(signs, sides):
            return Relation(signs, tuple(_choose(side, plus) for side in sides))
        case Group(kind, items):
            return Group(kind, tuple(_choose(item, plus) for item in items))
        case _:
            return node


def is_label(node: Node) -> bool:
    """Whether a node is a name to which a value is given: a variable, `f(x)`, `AB`, words, a tuple of variables."""
    match node:
        case Sym(name):
            return name not in CONSTANT_NAMES
        case Text():
            return True
        case Op(name, args):
            if name.startswith(
                (
                    "apply:",
                    "accent:",
                    "sub:",
                    "prime",
                    "norm",
                    "derivative",
                    "tr",
                    "rank",
                    "det",
                    "Pr",
                    "Var",
                    "dim",
                    "deg",
                    "integral",
                    "limit",
                    "gcd",
                    "lcm",
                    "max",
                    "min",
                    "arg",
                )
            ):
                return True
            return name in ("mul", "div", "ratio", "add", "neg") and all(
                is_label(arg) and not isinstance(arg, Group) for arg in args
            )
        case Group("tuple", items):
            return bool(items) and all(is_label(item) for item in items)
        case _:
            return False


def word_of(node: Node) -> str:
    match node:
        case Sym(name):
            return name
        case Text(words):
            return words.lower()
        case _:
            return repr(node)
