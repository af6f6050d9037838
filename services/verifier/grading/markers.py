"""What an answer marker announces (`the answer is ...`, `Answer: ...`, `#### ...`); clauses and formulas of prose."""

import re
from collections.abc import Iterator

from services.verifier.grading.region import is_placeholder

MARKER = re.compile(
    r"[aA]nswers?|ANSWERS?|Ans(?=[.:])|[sS]olution is|[rR]esult is|[fF]inal [rR]esult|####|答案|[rR]éponse"
    r"|[rR]espuesta|[aA]ntwort|[оО]твет|[rR]isposta|[rR]esposta|[jJ]awaban|[cC]evap|[Đđ]áp án|Odpowied[źz]|Antwoord"
    r"|正解|答え|정답|الإجابة|الجواب|उत्तर"
)
LATIN_SEEDS = (
    "nswer", "NSWER", "Ans.", "Ans:", "olution is", "esult is", "inal res", "inal Res", "####", "espuesta", "ntwor",
    "isposta", "esposta", "awaban", "evap",
)  # fmt: skip
OTHER_SEEDS = ("答案", "éponse", "твет", "áp án", "dpowied", "正解", "答え", "정답", "الإجابة", "الجواب", "उत्तर")
"""Every marker holds a seed, one character in at most: finding seeds is faster than trying a pattern everywhere."""
MAX_MARKERS = 4
"""Most markers, from the end, that are looked at."""
NEAR_END = 300
"""Where the last marker most often stands, in characters from the end."""
AFTER_MARKER = re.compile(
    r"[\s.*_`\"'’]*(?:\([a-z][^()\n]{2,40}\)[\s*_`]*(?=[:：=]|is\b))?(?:\s*to\s+(?:question|problem)\s+\d+)?"
    r"(?:(?:to|for|of|in|with|that|which|we|you|i|the|this|these|above|given|your|our|my|original|question|problem|equation|expression"
    r"|final|value|correct|therefore|thus|hence|so|then|now|here|only|obtained|found|required|sought|must|should|would|will|could|can|may)\b"
    r"[\s,]*){0,12}"
    r"(?:(?:(?:is|are|was|be|becomes?|equals?|est|es|ist|lautet|è|é)\b|是|为|為|は|은|는|：|:|=|-+>|[→➜⇒➔]|-(?=\s))[\s*_`]*){0,4}"
    r"(?:(?:therefore|thus|hence|given\s+by|equal\s+to|simply|just|exactly|approximately|about|around|roughly|nearly|option|the)\b[\s:]*)*",
    re.IGNORECASE,
)
MATH_OPEN = re.compile(r"\\\[|\\\(|(?<!\\)\$\$|(?<![\\$])\$(?!\$)|\\begin\{(?:equation|align|gather|displaymath)\*?\}")
MATH_CLOSE = {"\\[": "\\]", "\\(": "\\)", "$$": "$$", "$": "$"}
SENTENCE_END = re.compile(
    r"[\s.!?。．！；](?:(?<=[^\d\s.]\.)(?<!\bRs\.)(?<!\bsq\.)(?<!\bcu\.)(?<!\bNo\.)(?<!approx\.)(?=\s|$)"
    r"|(?<=\d\.)(?=\s|$)|(?<=[。．！；])|(?<=\n)(?:\s*\n|(?=\S))|(?<=[A-Za-z][!?])(?=\s|$)|(?<=\s)(?=I hope\b))"
)
EMPHASIS = re.compile(r"(?<![\w)\]}])\*\*(?=\S)|(?<=\S)\*\*(?=[\s.,;:!?]|$)")
QUALIFIER = re.compile(
    r"^(?:(?:approximately|about|around|roughly|nearly|exactly|simply|just)\s+"
    r"|(?:the\s+)?(?:(?:open|closed|half-open|ordered)\s+)?(?:interval|point|set|pair|vector|range)\s+(?=[(\[{]))",
    re.IGNORECASE,
)
NOT_BUT = re.compile(r"^not\s.{1,60}?\bbut\s+(?:rather\s+)?", re.IGNORECASE)
REASON = re.compile(
    r"\s*(?:[,;(–—]\s*(?:not|which|instead|rather\s+than|that\s+is|so\s+that|as\s+(?:we|it|the|there|required|expected))"
    r"|[,;(–—]?\s*\b(?:because|since))\b.*$",
    re.IGNORECASE | re.DOTALL,
)
"""The reason or contrast that follows an answer: `42, since 3x = 126`, `42 (not 43)`."""
REMARK = re.compile(
    r"\s*\((?=[^()]*\)\s*\.?$)(?:(?:approx|about|roughly|or\b|i\.e|rounded|≈|to\s+the\s+nearest|nearest|correct\s+to|in\s+simplest)"
    r"|[^()]*\b[A-Za-z]{2,}\s+[A-Za-z]{2,}\s+[A-Za-z\d])[^()]*\)\s*\.?$",
    re.IGNORECASE,
)
"""What is said of an answer in brackets: `0.33 (rounded)`, `42 (the number of sides)`."""
SUBJECT = re.compile(
    r"(?!.*\b(?:and|or|other|both|if|when|where|not)\b)[A-Za-z0-9][A-Za-z0-9 ,'*’-]{0,80}?\s(?:is|are|equals?)\s+"
    r"(?:approximately\s+|about\s+|exactly\s+)?(?=[-+−]?[\d$\\(\[{√π.])"
)
"""What an answer is said of: `total is 42`."""


def math_spans(text: str) -> list[tuple[int, int, str]]:
    r"""Every `$...$`, `$$...$$`, `\(...\)`, `\[...\]` as (start, end, content), by one pass."""
    spans: list[tuple[int, int, str]] = []
    if "$" not in text and "\\" not in text:
        return spans
    position = 0
    missing: set[str] = set()
    while opening := MATH_OPEN.search(text, position):
        mark = opening[0]
        close = MATH_CLOSE.get(mark) or mark.replace("begin", "end")
        end = -1 if close in missing else text.find(close, opening.end())
        if end < 0:
            missing.add(close)
            position = opening.end()
            continue
        if mark == "$" and _is_currency(text, opening.end(), end):
            position = opening.end()
            continue
        spans.append((opening.start(), end + len(close), text[opening.end() : end].strip()))
        position = end + len(close)
    return [span for span in spans if span[2]]


def _is_currency(text: str, start: int, end: int) -> bool:
    r"""Whether the text between two dollar signs is prose between two prices: `$5 and then $7`."""
    inside = text[start:end]
    return (
        inside[:1].isdigit() and re.search(r"[A-Za-z]{3,}\s+[A-Za-z]{2,}", inside) is not None and "\\" not in inside
    ) or ("\n\n" in inside)


def marked_answer(text: str) -> str | None:
    """What the last answer marker announces: its first formula or its clause."""
    for marker in _markers_from_the_end(text):
        after = AFTER_MARKER.match(text, marker.end())
        start = after.end() if after else marker.end()
        found = _announced(text[start : start + 4000])
        if found:
            return found
    return None


def _markers_from_the_end(text: str) -> Iterator[re.Match[str]]:
    """The last markers that no Latin letter touches, the very last first; looked for near the end before elsewhere."""
    seeds = LATIN_SEEDS if text.isascii() else LATIN_SEEDS + OTHER_SEEDS
    end = len(text)
    for _ in range(MAX_MARKERS):
        place = _last_seed(text, seeds, max(0, end - NEAR_END), end)
        if place < 0 and end > NEAR_END:
            place = _last_seed(text, seeds, 0, end)
        if place < 0:
            return
        marker = MARKER.match(text, place) or MARKER.match(text, max(0, place - 1))
        if marker and _is_whole(text, marker):
            yield marker
        end = place


def _last_seed(text: str, seeds: tuple[str, ...], low: int, end: int) -> int:
    """Where the last seed between two places starts; -1 where there is none."""
    last = -1
    for seed in seeds:
        place = text.rfind(seed, low, end)
        if place >= 0:
            last = low = place
    return last


def _is_whole(text: str, marker: re.Match[str]) -> bool:
    before, after = text[marker.start() - 1 : marker.start()], text[marker.end() : marker.end() + 1]
    return not (before.isascii() and before.isalpha()) and not (after.isascii() and after.isalpha())


def _announced(tail: str) -> str | None:
    tail = tail.lstrip(" \t\n*_`\"“”'")
    end = SENTENCE_END.search(tail)
    clause = tail[: end.start()] if end else tail
    opening = ("$" in tail or "\\" in tail) and MATH_OPEN.search(tail, 0, max(len(clause), 3) + 2)
    spans = math_spans(tail[:2000]) if opening else []
    if spans and spans[0][0] <= max(len(clause), 3):
        first_start, first_end, first = spans[0]
        if first_start == 0 or not re.match(r"[-+]?\d", tail[:first_start].strip()):
            return join_spans(tail, spans, first_end, first)
    clause = clean_clause(clause)
    return clause if clause and not is_placeholder(clause) and len(clause) < 600 else None


def join_spans(text: str, spans: list[tuple[int, int, str]], end: int, first: str) -> str:
    joined = [first]
    for start, stop, content in spans[1:]:
        if len(text[end:start]) > 24 or not re.fullmatch(r"\s*(?:,|;|,?\s*and|,?\s*or)\s*", text[end:start]):
            break
        joined.append(content)
        end = stop
    trailing = re.match(r"\s*(?:\\?%|percent(?:age)?\b)", text[end : end + 20])
    return ", ".join(joined) + (r"\%" if trailing else "")


def clean_clause(clause: str) -> str:
    """A clause without emphasis, quotes, approximations' words and final punctuation."""
    clause = EMPHASIS.sub("", clause.strip().strip('*_`"“”').strip())
    if clause.isalnum():
        return clause
    clause = NOT_BUT.sub("", QUALIFIER.sub("", clause))
    for pattern in (REASON, REMARK):
        clause = pattern.sub("", clause) or clause
    subject = SUBJECT.match(clause)
    clause = clause[subject.end() :] if subject else clause
    goes_on = clause.endswith("...")
    return clause.rstrip(' .,;:!*_`"“”。，；').strip() + ("..." if goes_on else "")
