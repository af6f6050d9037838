"""How public datasets write their rows, as data, and how such a row is brought into this project's fields.

The words of `AnswerForm` are all that the known sets need; a set with another form is brought into a file.
"""

import hashlib
import random
import string
from collections.abc import Mapping, Sequence
from typing import Literal

from shared.grading import Kind
from shared.schema import Schema

AnswerForm = Literal["plain", "after_hashes", "boxed", "after_the_answer_is", "index", "label", "first_option"]
"""Where the gold answer stands in its column: the column itself; after the last `####` (GSM8K); in the last `\\boxed`
(MATH); after the last `The answer is:` (MetaMathQA); the option's index from 0, or its label, becomes a letter; or the
column is the correct option's text, and `choices` the wrong ones', shuffled by the row's id (GPQA)."""


class Layout(Schema):
    """The columns of one public dataset."""

    kind: Kind
    problem: tuple[str, ...]
    """Columns whose texts, in this order and with a space between, are the problem."""
    answer: str
    answer_form: AnswerForm = "plain"
    choices: str | tuple[str, ...] | None = None
    """Column of a list of texts or of {text, label} as ARC has it, or the columns of the wrong options."""
    id: str | None = None
    """Column of the row's id; absent numbers the rows."""
    where: dict[str, tuple[str, ...]] = {}
    """Only rows whose columns hold one of these texts belong to the set."""

    def holds(self, row: Mapping[str, object]) -> bool:
        """Whether the row belongs to the set."""
        return all(str(row.get(column)) in allowed for column, allowed in self.where.items())

    def adapt(self, row: Mapping[str, object], id: str) -> dict[str, object]:
        """The row in this project's fields. A bad one raises `KeyError`, `ValueError`, `IndexError` or `TypeError`."""
        if self.id is not None:
            id = str(row[self.id])
        problem = " ".join(str(row[column]).strip() for column in self.problem)
        made: dict[str, object] = {"id": id, "kind": self.kind, "problem": problem}
        return made | self._read_answer(row, id)

    def _read_answer(self, row: Mapping[str, object], id: str) -> dict[str, object]:
        gold = row[self.answer]
        match self.answer_form:
            case "plain":
                return {"answer": gold.strip() if isinstance(gold, str) else gold} | self._read_choices(row)
            case "after_hashes":
                return {"answer": _after(str(gold), "####")}
            case "after_the_answer_is":
                return {"answer": _after(str(gold), "The answer is:")}
            case "boxed":
                return {"answer": find_boxed(str(gold))}
            case "index":
                return {"answer": string.ascii_uppercase[int(str(gold))]} | self._read_choices(row)
            case "label":
                return {"answer": string.ascii_uppercase[_labels(row[str(self.choices)]).index(str(gold))]} | (
                    self._read_choices(row)
                )
            case "first_option":
                texts = [str(gold).strip(), *(str(row[column]).strip() for column in self.choices or ())]
                order = list(range(len(texts)))
                random.Random(hashlib.sha256(id.encode()).digest()).shuffle(order)
                return {
                    "answer": string.ascii_uppercase[order.index(0)],
                    "choices": [texts[place] for place in order],
                }

    def _read_choices(self, row: Mapping[str, object]) -> dict[str, object]:
        if not isinstance(self.choices, str):
            return {}
        held = row[self.choices]
        return {"choices": _to_list(held["text"] if isinstance(held, Mapping) else held)}


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
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError("choices is not a list")
    return [str(value) for value in values]
