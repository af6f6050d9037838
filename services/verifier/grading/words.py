"""Answers in words: booleans, lettered options, phrases."""

import re
from functools import lru_cache

from services.verifier.grading.syntax import Group, Node, Op, Sym

BOOLEANS = {
    "true": True,
    "yes": True,
    "t": True,
    "false": False,
    "no": False,
    "f": False,
    "correct": True,
    "incorrect": False,
    "right": True,
    "wrong": False,
}
DRESS = re.compile(r"[{}$*_`]|\\(?:textbf|text|mathrm|mathbf|mbox)|\\ ")
DRESS_OR_SPACE = re.compile(r"[{}$*_`\s]|\\(?:text|textbf|mathrm|mathbf|mbox)")
LONE_LETTER = re.compile(r"(?:[Oo]ption|[Cc]hoice)?(?:\(([A-Za-z])\)|([A-Z])[.):]?)\.?")
FIRST_LETTER = re.compile(r"(?:[Oo]ption\s+)?(?:\(([A-Za-z])\)|([A-Z])[.):](?=\s|$))")
TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|mbox|textit|operatorname|textnormal|mathit|mathsf|rm|bf)\*?(?![A-Za-z])"
)
ORNAMENT = re.compile(r"[{}$\"“”*_`~]|\\[,;:! ]|\\(?=\s)")
HYPHEN = re.compile(r"(?<=[a-z])-(?=[a-z])")
COPULA = re.compile(r"\b(?:is|are|be|was|were|it's|as|a|an|the|becomes|remains|has|on)$")
ARTICLE = re.compile(r"^(?:the|a|an|it is|it's|this is|is|are)\s+")
WORDS = re.compile(r"(?:[a-z'-]{2,}|a|i)(?:[\s,]+(?:[a-z'-]{2,}|a|i))*")
BOOLEAN_WORD = re.compile(
    r"(\b(?:not|never|cannot|neither)\b|n't\b)?(?:\s+(?:be|always|necessarily|a|the))*\s*"
    r"\b(true|false|yes|no|correct|incorrect|right|wrong)\b"
)
LEADING_BOOLEAN = re.compile(r"(?:(?:so|thus|therefore|hence)[, ]+)?(yes|no)\b")
NAMED_SETS = {
    **dict.fromkeys(
        ("all real numbers", "all reals", "real numbers", "all real x", "all real values", "set of real numbers"),
        Sym("R"),
    ),
    **dict.fromkeys(
        (
            "no solution",
            "no solutions",
            "no real solution",
            "no real solutions",
            "empty set",
            "null set",
            "there is no solution",
            "there are no solutions",
            "there are no real solutions",
        ),
        Group("set", ()),
    ),
    **dict.fromkeys(("infinity", "positive infinity", "inf"), Sym("infinity")),
    "negative infinity": Op("neg", (Sym("infinity"),)),
}
"""Phrases that name a set or a value of the grammar."""
SAME_PHRASES = (
    frozenset(["does not exist", "dne", "doesn't exist", "limit does not exist", "do not exist"]),
    frozenset(["undefined", "not defined", "is undefined"]),
    frozenset(["n/a", "not applicable"]),
    frozenset(["infinitely many", "infinitely many solutions", "infinite", "infinite solutions"]),
    frozenset(["converges", "convergent", "is convergent"]),
    frozenset(["diverges", "divergent", "is divergent"]),
)
KNOWN_PHRASES = frozenset[str]().union(*SAME_PHRASES)
LIST_OF_PHRASES = re.compile(r"\s*(?:,\s*and\b|,|;|\band\b)\s*")
DENIAL = re.compile(r"\b(?:not|never|neither|nor|cannot|no|non)\b|n't\b")
CLOCK = re.compile(r"(\d{1,2})(?:[:.](\d{2}))?\s*(?:([ap])\.?\s?m\b\.?)?", re.IGNORECASE)


DATE = re.compile(r"\d{4}([-/])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4}")


@lru_cache(maxsize=8192)
def phrase(text: str) -> str:
    """Words in lower case without text commands, punctuation, articles."""
    text = TEXT_COMMAND.sub(" ", text) if "\\" in text else text
    text = ORNAMENT.sub(" ", text).strip().strip(".,;:!?()[] ").lower()
    text = HYPHEN.sub(" ", text) if "-" in text else text
    return ARTICLE.sub("", " ".join(text.split()))


def is_words(text: str) -> bool:
    """Whether a clean text is a phrase of two letters or more and no formula."""
    return len(text) > 1 and WORDS.fullmatch(phrase(text) or "-") is not None and len(phrase(text)) > 1


def boolean(text: str) -> bool | None:
    """The truth value that a text states: by its whole phrase, by `yes` or `no` in front, or by words that agree, each
    turned round where it is denied; None where it states none."""
    words = phrase(text)
    if words in BOOLEANS:
        return BOOLEANS[words]
    if len(words) > 200:
        return None
    leading = LEADING_BOOLEAN.match(words)
    if leading:
        return BOOLEANS[leading[1]]
    found = {
        BOOLEANS[match[2]] is not (match[1] is not None) for match in BOOLEAN_WORD.finditer(words) if match[2] != "no"
    }
    return found.pop() if len(found) == 1 else None


def lettered(text: str) -> str | None:
    """The letter of a lettered option standing alone: `(d)`, `B.`, `option C`; None otherwise."""
    match = LONE_LETTER.fullmatch(DRESS_OR_SPACE.sub("", text))
    return (match[1] or match[2]).upper() if match else None


def leading_letter(text: str) -> str | None:
    """The letter that an option's full line starts with: `(B) 12`, `B. 12`, `\\textbf{(B)}\\ 12`."""
    match = FIRST_LETTER.match(DRESS.sub("", text).strip())
    return (match[1] or match[2]).upper() if match else None


def words_equal(gold: str, answer: str) -> bool:
    """Whether two phrases say the same words, or lists of phrases the same phrases, or a sentence ends in the gold."""
    wanted, found = phrase(gold), phrase(answer)
    if wanted == found or any(wanted in same and found in same for same in SAME_PHRASES):
        return True
    singular = [re.sub(r"(?<=\w\w)s\b", "", words) for words in (wanted, found)]
    if singular[0] == singular[1]:
        return True
    items = [sorted(LIST_OF_PHRASES.split(words)) for words in (wanted, found)]
    if len(items[0]) > 1 and items[0] == items[1]:
        return True
    head = found.removesuffix(" " + wanted)
    return head != found and COPULA.search(head) is not None and not DENIAL.search(head)


def named(text: str) -> Node | None:
    """What a phrase names: all real numbers, the empty set, infinity."""
    return NAMED_SETS.get(phrase(text)) if len(text) < 60 else None


def is_known_phrase(text: str) -> bool:
    """Whether a text is a phrase that answers a mathematical question."""
    return len(text) < 60 and (phrase(text) in NAMED_SETS or phrase(text) in KNOWN_PHRASES)


def _clock(text: str) -> re.Match[str] | None:
    return CLOCK.fullmatch(TEXT_COMMAND.sub("", text).replace("{", "").replace("}", "").strip())


def _same_time(gold: str, answer: str) -> bool | None:
    """Grade a time of day where either says `AM` or `PM`; None where the gold is none."""
    wanted = _clock(gold)
    times = [time for time in CLOCK.finditer(answer) if time[2] or time[3]] if wanted else []
    found = _clock(answer) or (times[0] if len(times) == 1 else None)
    if wanted is None or not (wanted[3] or (wanted[2] and found and found[3])):
        return None
    if found is None or (wanted[2] or "00") != (found[2] or "00"):
        return False
    if wanted[3] and found[3]:
        return _hour(wanted) == _hour(found)
    return int(found[1]) in (int(wanted[1]), _hour(wanted)) or int(wanted[1]) == _hour(found)


def _hour(time: re.Match[str]) -> int:
    """The hour of the day, 0 to 23."""
    return int(time[1]) if not time[3] else int(time[1]) % 12 + (12 if time[3].lower() == "p" else 0)


def compare_words(gold: str, answer: str) -> bool | None:
    """Grade a gold answer in words: a truth value, a time, a date, a lettered option, a phrase; None where the gold is
    none of these."""
    same_time = _same_time(gold, answer)
    if same_time is not None:
        return same_time
    if DATE.fullmatch(gold) and DATE.fullmatch(answer):
        return [int(part) for part in re.findall(r"\d+", gold)] == [int(part) for part in re.findall(r"\d+", answer)]
    truth = BOOLEANS.get(phrase(gold)) if len(gold) < 40 else None
    if truth is not None and len(phrase(gold)) > 1:
        return boolean(answer) is truth
    letter = lettered(gold) or (leading_letter(gold) if lettered(answer) else None)
    if letter is not None:
        chosen = lettered(answer) or leading_letter(answer)
        if chosen is not None:
            return chosen == letter
        return True if gold.strip("(){} ").lower() == phrase(answer) and "(" in gold else None
    if phrase(gold) in KNOWN_PHRASES and any({phrase(gold), phrase(answer)} <= same for same in SAME_PHRASES):
        return True
    if named(gold) is not None or named(answer) is not None:
        return None
    if is_words(gold):
        if max(len(gold), len(answer)) <= 3 and " " not in gold + answer:
            if len(gold) == 3 and (gold.lower() == answer.lower() or (gold + answer).isupper()):
                return gold.lower() == answer.lower()  # `ABC` is a name or an order
            return None  # may be a product of letters
        return True if words_equal(gold, answer) else (False if is_words(answer) else None)
    return None
