"""Options named by their texts and not by their letters."""

import re
from collections.abc import Sequence

from services.verifier.grading.region import split_sentences

WORDS = re.compile(r"[^\W_]+")
LINK = re.compile(r"[\s*_`:：=\"]*(?:(?:is|are)\b)?[\s*_`:：=\"]*")


def _plain(text: str) -> str:
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|left|right|displaystyle)\b|[\s$*_`\"'“”{}]", "", text)
    return text.strip(".,;:!?()").casefold()


def option_of(text: str, letters: str, choices: Sequence[str] | None) -> str | None:
    """The letter of the one option whose full text this is, with or without its letter in front."""
    if not choices:
        return None
    wanted = _plain(text)
    if not wanted:
        return None
    matches = [letter for letter, option in zip(letters, choices, strict=False) if _plain(option) == wanted]
    return matches[0] if len(matches) == 1 else None


def opening_option(text: str, start: int, position: int, letters: str, choices: Sequence[str]) -> str | None:
    """The option whose text follows a marker, the longest where several do; `position` is where the marker's filler
    words end."""
    link = LINK.match(text, start)
    tails = [_plain(text[at : at + 2_000]) for at in {link.end() if link else start, position}]
    opening = [
        (len(wanted), letter)
        for letter, option in zip(letters, choices, strict=False)
        if len(wanted := _plain(option)) > 1 and any(tail.startswith(wanted) for tail in tails)
    ]
    return max(opening)[1] if opening else None


def mentioned_option(text: str, letters: str, choices: Sequence[str] | None) -> str | None:
    """The one option whose text the last sentence holds; a text inside another option's longer text does not count."""
    if not choices:
        return None
    sentences = split_sentences(text)
    last = _words(sentences[-1]) if sentences else ""
    held = [
        (letter, words)
        for letter, option in zip(letters, choices, strict=False)
        if (words := _words(option)).strip() and words in last
    ]
    held = [
        (letter, words) for letter, words in held if not any(words != other and words in other for _, other in held)
    ]
    return held[0][0] if len(held) == 1 and " not " not in last else None


def _words(text: str) -> str:
    return f" {' '.join(WORDS.findall(text.casefold()))} "
