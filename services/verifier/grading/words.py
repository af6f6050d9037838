"""Answers in words: booleans, lettered options, phrases."""

import re

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
LETTERED = re.compile(r"(?:option\s+|choice\s+)?\(?\s*([A-Za-z])\s*\)?\s*[.):]?", re.IGNORECASE)
TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|mbox|textit|operatorname|textnormal|mathit|mathsf|rm|bf)\*?(?![A-Za-z])"
)
ARTICLE = re.compile(r"^(?:the|a|an|it is|it's|this is|is|are)\s+")
WORDS = re.compile(r"(?:[a-z'-]{2,}|a|i)(?:[\s,]+(?:[a-z'-]{2,}|a|i))*")
BOOLEAN_WORD = re.compile(r"\b(true|false|yes|no|correct|incorrect|right|wrong)\b")
CLOCK = re.compile(r"(\d{1,2})[:.](\d{2})\s*(?:([ap])\.?\s?m\.?)?", re.IGNORECASE)
NEGATION = re.compile(r"\b(?:not|n't|cannot|never|neither|nor)\b|n't")


def phrase(text: str) -> str:
    """Words in lower case without text commands, punctuation, articles."""
    text = TEXT_COMMAND.sub(" ", text)
    text = re.sub(r"[{}$\"“”*_`~]|\\[,;:! ]|\\(?=\s)", " ", text).strip().strip(".,;:!?()[] ").lower()
    text = re.sub(r"\s+", " ", re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text)).strip()
    return ARTICLE.sub("", text)


def is_words(text: str) -> bool:
    """Whether a clean text is a phrase of two letters or more and no formula."""
    return len(text) > 1 and WORDS.fullmatch(phrase(text) or "-") is not None and len(phrase(text)) > 1


def boolean(text: str) -> bool | None:
    """The truth value that a text states, by its whole phrase or its only boolean word; None where it states none."""
    words = phrase(text)
    if words in BOOLEANS:
        return BOOLEANS[words]
    found = {BOOLEANS[word] for word in BOOLEAN_WORD.findall(words)}
    if len(found) != 1 or len(words) > 200:
        return None
    value = found.pop()
    return (not value) if NEGATION.search(words) and len(words) < 60 else value


def lettered(text: str) -> str | None:
    """The letter of a lettered option standing alone: `(d)`, `B.`, `option C`; None otherwise."""
    cleaned = re.sub(r"[{}$*_`\s]|\\(?:text|textbf|mathrm|mathbf|mbox)", "", text)
    match = re.fullmatch(r"(?:[Oo]ption|[Cc]hoice)?(?:\(([A-Za-z])\)|([A-Z])[.):]?)\.?", cleaned)
    return (match[1] or match[2]).upper() if match else None


def leading_letter(text: str) -> str | None:
    """The letter that an option's full line starts with: `(B) 12`, `B. 12`, `\\textbf{(B)}\\ 12`."""
    cleaned = re.sub(r"[{}$*_`]|\\(?:textbf|text|mathrm|mathbf|mbox)|\\ ", "", text).strip()
    match = re.match(r"(?:[Oo]ption\s+)?(?:\(([A-Za-z])\)|([A-Z])[.):](?=\s|$))", cleaned)
    return (match[1] or match[2]).upper() if match else None


def words_equal(gold: str, answer: str) -> bool:
    """Whether two phrases say the same words."""
    wanted, found = phrase(gold), phrase(answer)
    if wanted == found:
        return True
    singular = [re.sub(r"(?<=\w\w)s\b", "", words) for words in (wanted, found)]
    return singular[0] == singular[1]


def _same_time(gold: str, answer: str) -> bool | None:
    """Grade a time of day with `AM` or `PM`; None where the gold is none."""
    wanted, found = (
        CLOCK.fullmatch(TEXT_COMMAND.sub("", text).replace("{", "").replace("}", "").strip()) for text in (gold, answer)
    )
    if wanted is None or wanted[3] is None:
        return None
    return (
        found is not None
        and (int(wanted[1]), wanted[2]) == (int(found[1]), found[2])
        and (found[3] is None or wanted[3].lower() == found[3].lower())
    )


def compare_words(gold: str, answer: str) -> bool | None:
    """Grade a gold answer in words: a truth value, a time of day, a lettered option, a phrase; None where the gold is
    none of these."""
    same_time = _same_time(gold, answer)
    if same_time is not None:
        return same_time
    truth = BOOLEANS.get(phrase(gold)) if len(gold) < 40 else None
    if truth is not None and len(phrase(gold)) > 1:
        return boolean(answer) is truth
    letter = lettered(gold) or (leading_letter(gold) if lettered(answer) else None)
    if letter is not None:
        named = lettered(answer) or leading_letter(answer)
        if named is not None:
            return named == letter
        return True if gold.strip("(){} ").lower() == phrase(answer) and "(" in gold else None
    if is_words(gold):
        return True if words_equal(gold, answer) else (False if is_words(answer) else None)
    return None
