"""How datasets write their rows, as data, and how such a row is brought into this project's fields.

The words of `AnswerForm` are all that the known sets need; a set with another form is brought into a file.
"""

import hashlib
import json
import random
import string
from collections.abc import Mapping, Sequence

from shared.grading import Kind
from shared.job import AnswerForm
from shared.schema import Schema


class AnswerLayout(Schema):
    """The columns of a dataset that hold the gold answer and its options."""

    answer: str
    answer_form: AnswerForm = "plain"
    choices: str | tuple[str, ...] | None = None
    """Column of a list of texts or of {text, label} as ARC has it, or a column for each option."""

    def holds(self, row: Mapping[str, object]) -> bool:
        """Whether the row belongs to the set."""
        return True

    def adapt(self, row: Mapping[str, object], id: str) -> Mapping[str, object]:
        """The row with its answer and options in this project's form; the row's number is `id`.

        A bad one raises `KeyError`, `ValueError`, `IndexError`, `TypeError` or `RecursionError`.
        """
        return {**row, **self._read_answer(row, id)}

    def _read_answer(self, row: Mapping[str, object], id: str) -> dict[str, object]:
        gold = _read_cell(row, self.answer)
        match self.answer_form:
            case "plain":
                answer = gold.strip() if isinstance(gold, str) else gold
                return {"answer": answer} | ({"choices": self._read_choices(row)} if self.choices else {})
            case "after_hashes":
                return {"answer": _after(str(gold), "####")}
            case "after_the_answer_is":
                return {"answer": _after(str(gold), "The answer is:")}
            case "boxed":
                return {"answer": find_boxed(str(gold))}
            case "index":
                return {"answer": string.ascii_uppercase[int(str(gold))], "choices": self._read_choices(row)}
            case "label":
                place = _labels(_read_cell(row, str(self.choices))).index(str(gold))
                return {"answer": string.ascii_uppercase[place], "choices": self._read_choices(row)}
            case "first_option":
                texts = [str(gold), *self._read_choices(row)]
                order = list(range(len(texts)))
                random.Random(hashlib.sha256(id.encode()).digest()).shuffle(order)
                return {
                    "answer": string.ascii_uppercase[order.index(0)],
                    "choices": [texts[place].strip() for place in order],
                }

    def _read_choices(self, row: Mapping[str, object]) -> list[str]:
        if not isinstance(self.choices, str):
            return [str(_read_cell(row, column)) for column in self.choices or ()]
        held = _read_cell(row, self.choices)
        return _to_list(held["text"] if isinstance(held, Mapping) else held)


class Layout(AnswerLayout):
    """The columns of one public dataset."""

    kind: Kind
    problem: tuple[str, ...]
    """Columns whose texts, in this order and with a space between, are the problem."""
    id: str | None = None
    """Column of the row's id; absent numbers the rows."""
    where: dict[str, tuple[str, ...]] = {}
    """Only rows whose columns hold one of these texts belong to the set."""

    def holds(self, row: Mapping[str, object]) -> bool:
        return all(str(row.get(column)) in allowed for column, allowed in self.where.items())

    def adapt(self, row: Mapping[str, object], id: str) -> Mapping[str, object]:
        """The row in this project's fields, which it may have already. Raises as `AnswerLayout.adapt`."""
        if row.get("problem") and row.get("answer") is not None:
            return {"id": row.get(self.id or "id"), **row}
        if self.id is not None:
            id = str(_read_cell(row, self.id))
        problem = " ".join(str(_read_cell(row, column)).strip() for column in self.problem)
        made: dict[str, object] = {"id": id, "kind": self.kind, "problem": problem}
        return made | self._read_answer(row, id)


def _read_cell(row: Mapping[str, object], column: str) -> object:
    if row.get(column) is None:
        raise KeyError(column)
    return row[column]


def find_boxed(text: str) -> str:
    """What the last `\\boxed` or `\\fbox` holds, braces balanced. Raises `ValueError` where there is none."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        raise ValueError("no \\boxed answer")
    rest = text[start:].partition("box")[2].removeprefix("ed").lstrip()
    if not rest.startswith("{"):
        return rest.partition("$")[0].split()[0]
    depth = 0
    for place, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if not depth:
            return rest[1:place].strip()
    raise ValueError("the braces of \\boxed do not close")


def _after(text: str, mark: str) -> str:
    found, _, answer = text.rpartition(mark)
    if not found and not text.startswith(mark):
        raise ValueError(f"no {mark!r}")
    return answer.strip()


def _labels(choices: object) -> list[str]:
    if not isinstance(choices, Mapping):
        raise TypeError("choices is not an object with text and label")
    return _to_list(choices["label"])


def _to_list(values: object) -> list[str]:
    if isinstance(values, str):  # a cell of CSV
        values = json.loads(values)
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError("choices is not a list")
    return [str(value) for value in values]
