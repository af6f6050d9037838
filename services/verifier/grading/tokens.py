"""The tokens of a clean answer: one scan, no look back."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from services.verifier.grading.syntax import Unparsed
from services.verifier.grading.vocabulary import FUNCTIONS, MAGNITUDES, SEPARATORS


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `spaced` tells whether white space stood before it."""

    kind: Literal["number", "name", "command", "text", "sign", "end"]
    text: str
    spaced: bool


TEXT_COMMANDS = (
    r"text|mathrm|mbox|hbox|textbf|mathbf|textit|operatorname|textnormal|mathit|mathsf|mathcal|texttt"
    r"|textrm|textsf|rm|unit|si|bold|pmb|mathbb|mathfrak"
)
_SCANNER = (
    r"(?P<space>\s+)"
    r"|(?P<repeating>\d*\.\d*(?:\\(?:overline|bar|dot)\s*\{{\d+\}}|\(\d+\)(?=\\ldots|\.\.\.|\s*$)))"
    r"|(?P<word>[A-Za-z]*[^\W\d_\x00-\x7f][^\W\d_]*|[€£¥₹](?=\s*$)|\\cent(?![A-Za-z])|\\text\s*\{{\s*(?:\\[$€£]|[$€£¢]|cents?)\s*\}})"
    r"|(?P<number>{integer}(?:\.\d+)?(?:[eE][-+]?\d+(?![\dA-Za-z.]))?|\.\d+(?:[eE][-+]?\d+)?)"
    r"|\\(?P<face>" + TEXT_COMMANDS + r")\*?\s*\{{(?P<text>[^{{}}]*)\}}"
    r"|(?P<command>\\[A-Za-z]+|\\[^A-Za-z\s])"
    r"|(?P<name>[A-Za-z]+)"
    r"|(?P<sign>\*\*|<=>|==|<=|>=|!=|<>|=>|->|:=|\.\.\.+|[^\s])"
)
SCANNERS = {
    True: re.compile(
        _SCANNER.format(
            integer=r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:\.\d{3}){2,}(?![\d.])|\d{1,3}(?: \d{3})+(?!\d)|\d+)"
        )
    ),
    False: re.compile(_SCANNER.format(integer=r"\d+")),
}


def tokenize(text: str, grouping: bool) -> Iterator[Token]:
    """The tokens of a clean text; `grouping` reads `1,234` as one number. Raises `Unparsed` on a character out of
    place."""
    spaced = False
    for match in SCANNERS[grouping].finditer(text):
        kind = match.lastgroup
        match kind:
            case "space":
                spaced = True
                continue
            case "number":
                yield Token("number", _plain(match["number"]), spaced)
            case "repeating":
                yield Token("number", match[0], spaced)
            case "word" if match[0] not in SEPARATORS:
                yield Token("text", match[0].removeprefix(r"\text").strip("{} "), spaced)
            case "word":
                yield Token("name", match[0], spaced)
            case "text":
                yield from _text_tokens(match["face"], match["text"], spaced)
            case "command" | "name" | "sign":
                yield Token(kind, match[0], spaced)
            case _:
                raise Unparsed
        spaced = False
    yield Token("end", "", spaced)


def _plain(numeral: str) -> str:
    """A numeral without its grouping of digits."""
    plain = re.sub("[, ]", "", numeral)
    return plain.replace(".", "") if plain.count(".") > 1 else plain


def _text_tokens(face: str, content: str, spaced: bool) -> Iterator[Token]:
    """Text commands hold functions, single letters, separators or words."""
    words = content.strip()
    if face in ("mathbb", "mathcal", "mathfrak"):
        yield Token("command", "\\" + face + words, spaced)
    elif (word := words.lower().strip(" ,")) in SEPARATORS:
        yield Token("name", word, spaced)
    elif words in ("%", r"\%"):
        yield Token("sign", "%", spaced)
    elif not words:
        return
    elif words in MAGNITUDES or words in FUNCTIONS or (len(words) == 1 and words.isalpha()) or words in ("pi", "DNE"):
        yield Token("name", words, spaced)
    elif re.match(r"[-+]?\.?\d", words):
        yield from (token for token in tokenize(words, True) if token.kind != "end")
    else:
        yield Token("text", words, spaced)
