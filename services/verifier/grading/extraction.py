"""Where the answer stands in a response.

Every step is a linear scan. In order: what follows the last `</think>`; the last `<answer>`; the last balanced box;
what follows the last answer marker; the last formula; the last number. A short response without any of these is
itself the answer. A prompt's own placeholder (`[your answer]`) is never an answer.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

from services.verifier.grading.words import is_known_phrase

MAX_REGION = 16_000
"""Most characters, from the end, in which an answer is looked for."""

BOX = re.compile(
    r"(?:\\boxed|\\fbox|\\framebox|\x08oxed|(?<![A-Za-z\\])boxed)\s*(?=\{)|(?:\\boxed|\x08oxed)\s+(?=[^\s{])"
)
END_OF_TURN = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|end_of_text|end|eom_id|return|user|EOT|im_start)\|>|</s>|<eos>|<pad>|\[PAD\]|<end_of_turn>"
    r"|<｜end▁of▁sentence｜>"
)
"""Special tokens that end a response; nothing behind them is the model's answer."""
NEXT_QUESTION = re.compile(r"(?<=\n)\n(?:Question|Problem|Q) ?\d{0,4} ?:")
"""A model that runs on invents the next question."""
ESCAPED_OR_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
SLOT = (
    r"(?:(?:put|write|insert|your|the|a|final|numeric(?:al)?|letter|option|correct"
    r"|short)\s+){0,4}(?:answer|solution|result)(?:\s+(?:here|only|letter|goes\s+here))*"
)
BARE_BOX = re.compile(r"[^\s$]{1,200}")
MAX_CHAIN = 16
"""Most boxes that make one list, and deepest boxes in boxes."""
PLACEHOLDER = re.compile(
    rf"[\[(<{{]\s*{SLOT}\s*[\])>}}]\.?|(?:your|insert|put)\s+{SLOT}|\.\.\.|…|\[\s*\]", re.IGNORECASE
)
MARKER = re.compile(
    r"[aA]nswers?|ANSWERS?|Ans(?=[.:])|[sS]olution is|[rR]esult is|[fF]inal [rR]esult|####|答案|[rR]éponse"
    r"|[rR]espuesta|[aA]ntwort|[оО]твет|[rR]isposta|[rR]esposta|[jJ]awaban|[cC]evap|Đáp án|đáp án|Odpowied[źz]|Antwoord"
    r"|正解|答え|정답|الإجابة|الجواب|उत्तर"
)
"""Starts with few letters and looks at nothing else, so that the scan skips; `_is_whole` looks around."""
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
NUMBER = re.compile(
    r"(?<![\w.\\^_])(?:(?<=[=:]\s)[-−]\s|[-−+])?(?:[$€£¥₹]\s?|\\\$\s?)?(?:\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d+)?(?:\s*/\s*\d+(?:\.\d+)?)?(?:\s*(?:\\?%|percent(?:age)?\b|pct\b))?"
)
CJK_NUMBER = re.compile(r"(?<![\d.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?")
SENTENCE_END = re.compile(
    r"(?<=[^\d\s.])(?<!\bRs)(?<!\bsq)(?<!\bcu)(?<!\bNo)(?<!approx)\.(?=\s|$)"
    r"|(?<=\d)\.(?=\s|$)|[。．！；]|\n\s*\n|\n(?=\S)|(?<=[A-Za-z])[!?](?=\s|$)|\s(?=I hope\b)"
)
EMPHASIS = re.compile(r"(?<![\w)\]}])\*\*(?=\S)|(?<=\S)\*\*(?=[\s.,;:!?]|$)")
QUALIFIER = re.compile(r"^(?:approximately|about|around|roughly|nearly|exactly|simply|just)\s+", re.IGNORECASE)
NOT_BUT = re.compile(r"^not\s.{1,60}?\bbut\s+(?:rather\s+)?", re.IGNORECASE)
REASON = re.compile(
    r"\s*(?:[,;(–—]\s*(?:not|which|instead|rather\s+than|that\s+is|so\s+that|as\s+(?:we|it|the|there|required|expected))"
    r"|[,;(–—]?\s*\b(?:because|since))\b.*$",
    re.IGNORECASE | re.DOTALL,
)
"""The reason or contrast that follows an answer: `42, since 3x = 126`, `42 (not 43)`."""
REMARK = re.compile(
    r"\s*\((?:approx|about|roughly|or\b|i\.e|rounded|≈|to\s+the\s+nearest|nearest|correct\s+to|in\s+simplest)[^()]*\)\s*\.?$",
    re.IGNORECASE,
)
SUBJECT = re.compile(
    r"(?!.*\b(?:and|or|other|both|if|when|where|not)\b)[A-Za-z0-9][A-Za-z0-9 ,'*’-]{0,80}?\s(?:is|are|equals?)\s+"
    r"(?:approximately\s+|about\s+|exactly\s+)?(?=[-+−]?[\d$\\(\[{√π.])"
)
"""What an answer is said of: `total is 42`."""
LISTED = re.compile(r"\s*(?:,|;|,?\s*(?:and|or))\s*(?:[A-Za-z](?:_\{?\w\}?)?\s*=\s*)?")
ENUMERATED = re.compile(
    r"(?:\b(?:are|be|values?|roots?|solutions?|either|include|numbers?)(?:\s+(?:of|for)\s+\w)?|[A-Za-z]\s*=|:)\s*$"
)
"""What introduces a list of numbers: `the roots are 2 and 3`."""
GLUE = re.compile(
    r"[\s$,;.]*(?:\\(?:text|mbox|mathrm|quad|qquad|,|;|\(|\)|\[|\])\s*)*[{]?\s*(?:and|or|,|;|&)?\s*[}]?[\s$,;~]*(?:\\(?:quad|qquad|,|;|\(|\)|\[|\])[\s$]*)*"
    r"(?:[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=\s*)?"
)
APPROXIMATE = re.compile(
    r"[\s$]*(?:\\[()\[\]][\s$]*)*(?:\\approx|\\simeq|\\sim|≈|~|(?:or|which\s+is|i\.e\.)?\s*(?:about|approximately|roughly))[\s$:]*(?:\\[()\[\]][\s$]*)*",
    re.IGNORECASE,
)


def answer_region(response: str) -> str:
    """What follows the last `</think>`, then the inside of the last `<answer>`; the whole text where neither stands."""
    end = response.rfind("</think>")
    text = own_words(response[end + 8 :] if end >= 0 else response.removeprefix("<think>"))
    folded = text if "nswer>" not in text or "<answer>" in text else text.replace("<Answer>", "<answer>")
    start = folded.rfind("<answer>")
    while start >= 0:
        close = folded.lower().find("</answer>", start)
        inside = text[start + 8 : close if close >= 0 else len(text)].strip()
        if inside and not is_placeholder(inside):
            return tail(inside)
        start = folded.rfind("<answer>", 0, start)
        if start < 0:
            return ""
    return tail(text.strip())


def own_words(text: str) -> str:
    """The response without what stands behind its end: special tokens, a next question that the model invents."""
    if "<" in text or "[PAD]" in text:
        text = text.lstrip()
        while mark := END_OF_TURN.match(text):
            text = text[mark.end() :].lstrip()
        end = END_OF_TURN.search(text)
        text = text[: end.start()] if end else text
    invented = NEXT_QUESTION.search(text, 1) if ":" in text else None
    return text[: invented.start()] if invented else text


def tail(text: str) -> str:
    """The end of an overlong text: the answer stands last, and every later scan stays short."""
    return text if len(text) <= MAX_REGION else text[-MAX_REGION:]


def is_placeholder(text: str) -> bool:
    """Whether the text is a template's slot and not an answer."""
    return len(text) < 100 and PLACEHOLDER.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Box:
    """A balanced box: where it starts and ends, and the bounds of its content."""

    start: int
    end: int
    low: int
    high: int

    def content(self, text: str) -> str:
        """What the box holds."""
        return text[self.low : self.high].strip()


def find_boxes(text: str) -> list[Box]:
    """Every balanced box that holds something, in order of its start; one pass over the braces."""
    if "oxed" not in text and "box" not in text:
        return []
    first = min(place for word in ("oxed", "box") if (place := text.find(word)) >= 0)
    openings = [(match.start(), match.end()) for match in BOX.finditer(text, max(0, first - len("\\frame")))]
    if not openings:
        return []
    closing = _matching_braces(text, openings[0][0])
    boxes: list[Box] = []
    for start, brace in openings:
        if text[brace] != "{":
            word = BARE_BOX.match(text, brace)
            if word:
                boxes.append(Box(start, word.end(), brace, word.end()))
        elif brace in closing:
            boxes.append(Box(start, closing[brace] + 1, brace + 1, closing[brace]))
    return [box for box in boxes if not text[box.low : box.high].isspace() and box.low < box.high]


def _matching_braces(text: str, start: int) -> dict[int, int]:
    stack: list[int] = []
    closing: dict[int, int] = {}
    for match in ESCAPED_OR_BRACE.finditer(text, start):
        if match[0] == "{":
            stack.append(match.start())
        elif match[0] == "}" and stack:
            closing[stack.pop()] = match.start()
    return closing


def last_box(text: str) -> str | None:
    """The last box; neighbours joined by a comma, `and` or `or` make one list, an approximation of the box before it
    is left out."""
    outer: list[Box] = []
    for box in find_boxes(text):
        if (not outer or box.start >= outer[-1].end) and not is_placeholder(
            text[box.low : min(box.high, box.low + 100)].strip()
        ):
            outer.append(box)
    if not outer:
        return None
    while (
        len(outer) > 1
        and outer[-1].start - outer[-2].end <= 60
        and APPROXIMATE.fullmatch(text[outer[-2].end : outer[-1].start])
    ):
        outer.pop()
    chain = [outer[-1].content(text)]
    for after, before in pairwise(reversed(outer[-MAX_CHAIN:])):
        between = text[before.end : after.start]
        if len(between) > 40 or not GLUE.fullmatch(between) or before.content(text) == chain[-1]:
            break
        chain.append(before.content(text))
    return unwrap_box(", ".join(reversed(chain)))


def unwrap_box(text: str) -> str:
    """The content where a box holds nothing but a box."""
    boxes = find_boxes(text)
    for box in boxes:
        if box.start != 0 or box.end != len(text):
            break
        return unwrap_box(box.content(text)) if len(boxes) < MAX_CHAIN else boxes[-1].content(text)
    return text


def math_spans(text: str) -> list[tuple[int, int, str]]:
    r"""Every `$...$`, `$$...$$`, `\(...\)`, `\[...\]` as (start, end, content), by one pass."""
    spans: list[tuple[int, int, str]] = []
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
    markers = [marker for marker in MARKER.finditer(text) if _is_whole(text, marker)]
    for marker in reversed(markers[-4:]):
        after = AFTER_MARKER.match(text, marker.end())
        start = after.end() if after else marker.end()
        found = _announced(text[start : start + 4000])
        if found:
            return found
    return None


def _is_whole(text: str, marker: re.Match[str]) -> bool:
    """Whether no Latin letter touches a marker."""
    before, after = text[marker.start() - 1 : marker.start()], text[marker.end() : marker.end() + 1]
    return not (before.isascii() and before.isalpha()) and not (after.isascii() and after.isalpha())


def _announced(tail: str) -> str | None:
    tail = tail.lstrip(" \t\n*_`\"“”'")
    spans = math_spans(tail[:2000])
    end = SENTENCE_END.search(tail)
    clause = tail[: end.start()] if end else tail
    if spans and spans[0][0] <= max(len(clause), 3):
        first_start, first_end, first = spans[0]
        if first_start == 0 or not re.match(r"[-+]?\d", tail[:first_start].strip()):
            return _join_spans(tail, spans, first_end, first)
    clause = clean_clause(clause)
    return clause if clause and not is_placeholder(clause) and len(clause) < 600 else None


def _join_spans(text: str, spans: list[tuple[int, int, str]], end: int, first: str) -> str:
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
    clause = NOT_BUT.sub("", QUALIFIER.sub("", clause))
    for pattern in (REASON, REMARK):
        clause = pattern.sub("", clause) or clause
    subject = SUBJECT.match(clause)
    clause = clause[subject.end() :] if subject else clause
    goes_on = clause.endswith("...")
    return clause.rstrip(' .,;:!*_`"“”。，；').strip() + ("..." if goes_on else "")


def last_formula(text: str) -> tuple[int, str] | None:
    """The last formula and where it starts; neighbours joined by a comma or `and` make one list."""
    spans = [span for span in math_spans(text) if span[2][0] not in "^_"]
    if not spans:
        return None
    index = len(spans) - 1
    while index > 0 and re.fullmatch(
        r"\s*(?:,|;|,?\s*and|,?\s*or)\s*", text[spans[index - 1][1] : spans[index][0]][:30]
    ):
        index -= 1
    return spans[-1][0], _join_spans(text, spans[index:], spans[index][1], spans[index][2])


def last_number(text: str) -> tuple[int, str] | None:
    """The last number of a prose text and where it starts, with its sign, currency, percent sign and denominator."""
    found = list(NUMBER.finditer(text)) or list(CJK_NUMBER.finditer(text))
    if not found:
        return None
    start, last = found[-1].start(), found[-1][0].strip()
    items = [last]
    for before, after in pairwise(reversed(found[-MAX_CHAIN:])):
        if not LISTED.fullmatch(text[after.end() : before.start()]):
            break
        items.append(after[0].strip())
        start = after.start()
    if len(items) > 1 and ENUMERATED.search(text[max(0, start - 40) : start]):
        return start, ", ".join(reversed(items))
    return found[-1].start(), last


AMOUNT = re.compile(
    r"\b(?:half|halves|thirds?|quarters?|fourths?|fifths?|hundreds?|thousands?|millions?|billions?|trillions?|dozens?|pairs?|plus|minus|times|squared|cubed"
    r"|sqrt|root|log|ln|exp|sin|cos|tan|pi|over|factorial|power|not|less|more|least|most|between|at|mod|base|inf(?:inity)?|dne|none|january|february|march|april|may|june|july|august|september|october|november|december|jan|feb|mar|apr|aug|sept?|oct|nov|dec)\b",
    re.IGNORECASE,
)
FORMULA = re.compile(r"[\\^_+*/=<>|!]")
OPENING = re.compile(r"\s*(?:[(\[{]|\\[{(\[])")
LEADING_TRUTH = re.compile(r"(?:yes|no|true|false)\b(?=[.,:;!])", re.IGNORECASE)
TRUTH = re.compile(r"\b(?:true|false|yes|no|correct|incorrect)\b", re.IGNORECASE)
PROSE = re.compile(
    r"[A-Za-z]{2,}[,;:]?\s+[A-Za-z]{2,}[,;:]?\s+[A-Za-z]{2,}|[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]{3,}"
)


def extract_math(response: str, in_words: bool = False) -> str | None:
    """The answer as written in the response, or None where there is none; a gold answer `in_words` is looked for in the
    last sentence, or a `yes` or `no` in the first, before any number."""
    text = answer_region(response)
    if not text or is_placeholder(text):
        return None
    box = last_box(text)
    if box is not None:
        return box.strip()
    marked = marked_answer(text)
    if marked is not None:
        return marked
    if is_known_phrase(text):
        return text
    if (
        len(text) < 300
        and not PROSE.search(re.sub(r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}|\\[A-Za-z]+", "", text))
        and "\n\n" not in text
    ):
        spans = math_spans(text)
        if not spans or (spans[0][0] == 0 and spans[-1][1] >= len(text.rstrip("."))):
            return text
    truth = _stated_truth(text)
    if truth is not None:
        return truth
    if in_words:
        leading = LEADING_TRUTH.match(text)
        return leading[0] if leading else _last_sentence(text)
    formula, number = last_formula(text), last_number(text)
    if formula and (number is None or number[0] < formula[0] + len(formula[1]) + 2):
        return formula[1]
    return number[1] if number else None


def _stated_truth(text: str) -> str | None:
    """A short last sentence without numbers that says yes or no."""
    sentence = _last_sentence(text) or ""
    return sentence if len(sentence) < 120 and TRUTH.search(sentence) and not re.search(r"[\d\\$]", sentence) else None


def _last_sentence(text: str) -> str | None:
    sentences = [part for part in SENTENCE_END.split(text[-1_000:]) if part and part.strip()]
    return (clean_clause(sentences[-1]) or None) if sentences else None


def lone_number(text: str) -> str | None:
    """The number of a clause that holds exactly one among words: `42 because geometry proves it`, `so x equals -3`."""
    found = [match[0].strip() for match in NUMBER.finditer(text)]
    if len(found) != 1 or not re.search(r"[A-Za-z]{2,}", text) or AMOUNT.search(text):
        return None
    rest = text.replace(found[0], "")
    return None if FORMULA.search(rest) or OPENING.match(text) else found[0]
