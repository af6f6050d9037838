"""Numbers in English words: `twenty-one`, `two thirds`, `one and a half`, `five apples`."""

import re
from fractions import Fraction

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen".split()
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
COUNTS = {**{word: place for place, word in enumerate(_ONES)}, **{word: 20 + 10 * n for n, word in enumerate(_TENS)}}
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "dozen": 12}
PARTS = {
    word: place
    for place, words in enumerate(
        "half|halves third|thirds quarter|quarters|fourth|fourths fifth|fifths sixth|sixths seventh|sevenths"
        " eighth|eighths ninth|ninths tenth|tenths".split(),
        2,
    )
    for word in words.split("|")
}
START = re.compile(
    rf"\s*(?:(?:minus|negative)\s+)?(?:{'|'.join((*COUNTS, 'half'))}|an?\s+(?:{'|'.join((*SCALES, *PARTS))}))\b",
    re.IGNORECASE,
)
MAX_LENGTH = 80


def in_digits(text: str) -> str | None:
    """A text that starts with a number in words and holds at most two words beside it, with that number in digits;
    None for any other."""
    if len(text) > MAX_LENGTH or not START.match(text) or re.search(r"[\d\\$^_=+*/(){}\[\],;]", text):
        return None
    words = re.sub(r"[-,.]", " ", text.lower()).split()
    sign = "-" if words[0] in ("minus", "negative") else ""
    words = words[bool(sign) :]
    if words[0] in ("a", "an") and words[1] in SCALES:
        words[0] = "one"
    for length in range(len(words), 0, -1):
        value = _value(words[:length])
        if value is not None:
            rest = words[length:]
            return (
                None
                if len(rest) > 2 or (value == 1 and rest[:1] == ["of"]) or any(word in COUNTS for word in rest)
                else " ".join([f"{sign}{value}", *rest])
            )
    return None


def _value(words: list[str]) -> Fraction | None:
    """The number that all of these words say; None where they say none."""
    if words[-1] in PARTS:
        if words == ["half"]:
            return Fraction(1, 2)
        head = words[:-1]
        if head and head[-1] in ("a", "an", "one") and len(head) > 2 and head[-2] == "and":
            whole = _whole(head[:-2])
            return None if whole is None else whole + Fraction(1, PARTS[words[-1]])
        count = 1 if head in (["a"], ["an"]) else _whole(head)
        return None if count is None else Fraction(count, PARTS[words[-1]])
    whole = _whole(words)
    return None if whole is None else Fraction(whole)


def _whole(words: list[str]) -> int | None:
    total = part = 0
    last = ""
    for word in words:
        if word in COUNTS:
            tens = COUNTS.get(last, 0)
            if last in COUNTS and not (tens >= 20 and 0 < COUNTS[word] < 10):
                return None
            part += COUNTS[word]
        elif word in SCALES and part:
            if word == "hundred":
                part *= 100
            else:
                total += part * SCALES[word]
                part = 0
        elif word != "and" or last not in SCALES:
            return None
        last = word
    return total + part if words and last != "and" else None
