"""One spelling for what is written in many ways: the text that every tier compares or parses.

`clean` keeps the meaning and removes layout; `normal_form` is a cheap canonical form for counting distinct answers.
"""

import re
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from services.verifier.grading.cost import MAX_LENGTH
from services.verifier.grading.number_words import in_digits
from services.verifier.grading.numerals import Number, parse_number

UNICODE = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "—": "-",
        "‑": "-",
        "﹣": "-",
        "－": "-",
        "＋": "+",
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "∙": r"\cdot ",
        "÷": r"\div ",
        "∗": "*",
        "π": r"\pi ",
        "∞": r"\infty ",
        "√": r"\sqrt ",
        "∛": r"\sqrt[3] ",
        "∜": r"\sqrt[4] ",
        "¢": r"\cent ",
        "．": ".",
        "ν": r"\nu ",
        "ξ": r"\xi ",
        "η": r"\eta ",
        "κ": r"\kappa ",
        "ζ": r"\zeta ",
        "χ": r"\chi ",
        "ψ": r"\psi ",
        "µ": r"\mu ",
        "Γ": r"\Gamma ",
        "Λ": r"\Lambda ",
        "Φ": r"\Phi ",
        "Ψ": r"\Psi ",
        "Σ": r"\Sigma ",
        "Π": r"\Pi ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "⩽": r"\le ",
        "⩾": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "∈": r"\in ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∅": r"\emptyset ",
        "°": r"^\circ ",
        "ℝ": r"\mathbb{R}",
        "ℤ": r"\mathbb{Z}",
        "ℕ": r"\mathbb{N}",
        "ℚ": r"\mathbb{Q}",
        "ℂ": r"\mathbb{C}",
        "½": r"\frac{1}{2}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
        "⅛": r"\frac{1}{8}",
        "²": "^{2}",
        "³": "^{3}",
        "¹": "^{1}",
        "⁰": "^{0}",
        "⁴": "^{4}",
        "⁵": "^{5}",
        "⁶": "^{6}",
        "⁷": "^{7}",
        "⁸": "^{8}",
        "⁹": "^{9}",
        "⁻": "^{-}",
        "ⁿ": "^{n}",
        "′": "'",
        "’": "'",
        "‘": "'",
        "“": '"',
        "”": '"',
        "…": r"\ldots ",
        "α": r"\alpha ",
        "β": r"\beta ",
        "γ": r"\gamma ",
        "δ": r"\delta ",
        "ε": r"\epsilon ",
        "θ": r"\theta ",
        "λ": r"\lambda ",
        "μ": r"\mu ",
        "σ": r"\sigma ",
        "τ": r"\tau ",
        "φ": r"\phi ",
        "ϕ": r"\phi ",
        "ω": r"\omega ",
        "Δ": r"\Delta ",
        "Ω": r"\Omega ",
        "ρ": r"\rho ",
        "₀": "_{0}",
        "₁": "_{1}",
        "₂": "_{2}",
        "₃": "_{3}",
        "₄": "_{4}",
        "₅": "_{5}",
        "₆": "_{6}",
        "₇": "_{7}",
        "₈": "_{8}",
        "₉": "_{9}",
        "⟨": r"\langle ",
        "⟩": r"\rangle ",
        "⌊": r"\lfloor ",
        "⌋": r"\rfloor ",
        "⌈": r"\lceil ",
        "⌉": r"\rceil ",
        "∖": r"\setminus ",
        "，": ",",
        "；": ";",
        "：": ":",
        "（": "(",
        "）": ")",
        "［": "[",
        "］": "]",
        "｛": "{",
        "｝": "}",
        "％": "%",
        "。": ".",
        "、": ",",
        "＝": "=",
        "＜": "<",
        "＞": ">",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
        "\u2003": " ",
        "\u3000": " ",
        "\u200b": "",
        "\ufeff": "",
        "\x0c": r"\f",
        "∫": r"\int ",
        "∑": r"\sum ",
        "∏": r"\prod ",
        "∂": r"\partial ",
        "∣": "|",
        "≡": r"\equiv ",
        "±": r"\pm ",
        "∓": r"\mp ",
        "→": r"\to ",
        "∧": r"\land ",
        "∨": r"\lor ",
        "¬": r"\neg ",
        "∀": r"\forall ",
        "∃": r"\exists ",
    }
)
"""Characters that LaTeX or Python spells otherwise."""

SUPERSCRIPTS = re.compile(r"(?:\^\{[-\dn]\}){2,}")
DELIMITERS = re.compile(r"[$]+|\\[()\[\]]")
LAYOUT = re.compile(
    r"\\(?:(?:left|right|middle|bigl|bigr|Bigl|Bigr|biggl|biggr|Biggl|Biggr|big|Big|bigg|Bigg|displaystyle|textstyle|scriptstyle|limits|nolimits"
    r"|boldsymbol|bm|Large|large|huge|Huge|small|normalsize|rm|bf|it|mathstrut|strut|hfill|noindent|nobreak)(?![A-Za-z])\s?\.?(?<![.])"
    r"|(?:left|right)\s?\.|(?<!\\\\)[!,;:> ]"
    r"|(?:quad|qquad|enspace|thinspace|medspace|thickspace|negthinspace)(?![A-Za-z]))"
)
"""A pattern that starts with one literal is found without trying it at every character."""
TIE = re.compile(r"(?<!\\)~")
MODULE = re.compile(r"(?<![A-Za-z.])(?:np|numpy|math|cmath|sympy|sp)\.(?=[A-Za-z])")
TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))")
PLAIN = re.compile(
    r"(?:[-+/^{}()='_%\d]++|\.(?=\d)|(?<=[\w)}\]]),(?= ?[-\w(\\])| (?! )|\\(?:frac|sqrt|pi)(?![A-Za-z])|\\[%$]"
    r"|(?<![A-Za-z])(?![xX] ?10)[A-Za-z](?![A-Za-z])|\[(?=[-\w(.\\])|(?<=[\w)}\]%])\])++"
)
"""Formulas in which nothing is to be cleaned."""
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
"""An integer in the one spelling that no other integer shares."""
ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
RUPEES = re.compile(r"Rs\.?\s*(?=\d)")
GROUPED = re.compile(r"(?<=\d)(?:,?\\[,!;: ]|\{,\}\s*)+(?=\d{3}(?!\d))")
FRACTION = re.compile(r"(?<=\\)(?:[dtcsx]|nice|flat)(?=frac(?![A-Za-z]))")
DIGIT_SPACE_DIGIT = re.compile(r"(?<=\d)\s+(?=\d)")
"""`1 1/2` is not `11/2`."""
COLOR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}")
OUT_OF = re.compile(r"^(\d+) (?:out of|in) (\d+)$")
NEGATIVE = re.compile(r"\b(?:negative|minus)\s+(?=\\?[$.]?\s?\d)", re.IGNORECASE)
LABEL = re.compile(r"^\s*(?:\\text\s*\{\s*[^{}]{0,40}[:=]\s*\}|(?:A|Ans|Answer)\s*[:：](?=\s*[\d$\\(-])|[•·▪:>~≈]+\s*)")
"""What may stand before an answer: `\\text{Answer: }`, a bullet, `about`."""
FRENCH_INTERVAL = re.compile(r"(?P<open>[\[\]])(?P<ends>[^\[\]()]*[,;][^\[\]()]*)(?P<close>[\[\]])")
DOMAIN = re.compile(
    r"(?<=[^\s,(;])\s*[,;(]?\s*(?:\\text\s*\{[^{}]{0,30}\}|where|for|with)?\s*(?:all|any|each|every)?\s*"
    r"\(?[A-Za-z]\s*(?:\\in\s*\\(?:mathbb|mathbf|Bbb)\s*\{?[ZNRQC]\}?(?:[\^_]\{?[+*]\}?)?"
    r"|\s(?:is|are)\s+(?:an?|any|all)?\s*(?:arbitrary\s+|positive\s+|non-?negative\s+)?(?:integers?|constants?|real\s+numbers?))\s*\)?$"
)
"""What a letter stands for, said behind the answer: `2k\\pi, k \\in \\mathbb{Z}`."""
TEXT_COMMAND = re.compile(
    r"\\(?:text|mathrm|mbox|textbf|mathbf|textit|operatorname|textnormal|mathit|mathsf)\*?\{([^{}]*)\}"
)
SHORT_FRACTION = re.compile(r"\\frac(\d)(\d)")
ESCAPED_SIGN = re.compile(r"\\(?=[%$])")
WORD = re.compile(r"[A-Za-z][A-Za-z\s'-]*")


def clean(text: str) -> str:
    """The text without math delimiters, layout commands and final punctuation; Unicode signs as LaTeX."""
    text = text.strip()
    if text[:1] == "$" and text[1:2].isdigit() and "$" not in text[1:]:
        text = "\\" + text  # dollars, not a formula's delimiter
    if PLAIN.fullmatch(bare := text.strip("$").strip()):
        return bare
    if not text.isascii():
        text = SUPERSCRIPTS.sub(lambda m: "^{" + re.sub(r"[\^{}]", "", m[0]) + "}", text.translate(UNICODE))
    if "10" in text:
        text = TIMES_TEN.sub(_times, text)
    if "$" in text or "\\" in text or "{,}" in text:
        text = GROUPED.sub(",", text).replace(r"\$", "\x01")
        text = DELIMITERS.sub(" ", text).replace("\x01", r"\$")
        if PLAIN.fullmatch(bare := text.strip()):
            return bare
        text = LAYOUT.sub(" ", text)
        text = TIE.sub(" ", text) if "~" in text else text
        text = COLOR.sub("", text) if "color" in text else text
        text = FRACTION.sub("", text) if "frac" in text else text
        text = text.strip()
        if PLAIN.fullmatch(text):
            return text
    text = MODULE.sub("", text) if "." in text else text
    if text[:1].isalpha() and (spelled := in_digits(text)) is not None:
        return spelled
    if text[:1] in "\\A•·▪:>~≈" and (label := LABEL.match(text)):
        text = text[label.end() :]
    if text[:1] == "]" or text[-1:] == "[" or "[ " in text or "\\cup" in text:
        text = FRENCH_INTERVAL.sub(_usual_interval, text)
    text = OUT_OF.sub(r"\1/\2", text) if " in " in text or " out " in text else text
    text = NEGATIVE.sub("-", text) if "ative" in text or "inus" in text else text
    text = ORDINAL.sub("", text)
    text = RUPEES.sub("", text, 1) if text[:2] == "Rs" else text
    if ("\\in" in text or "integer" in text or "constant" in text) and text[:1] != "{" and len(text) < MAX_LENGTH:
        text = DOMAIN.sub("", text)
    text = text.strip()
    while text and text[-1] in ".,;:" and not text.endswith(("..", r"\,", r"\;", r"\:")):
        text = text[:-1].rstrip()
    return " ".join(text.split()).strip("*`").strip()


def _times(_: re.Match[str]) -> str:
    return r"\times "


def _usual_interval(match: re.Match[str]) -> str:
    """`]0, 1]` as `(0, 1]`."""
    return ("(" if match["open"] == "]" else "[") + match["ends"] + (")" if match["close"] == "[" else "]")


def squeeze(text: str) -> str:
    """`clean` text without any white space, one spelling of fractions and of text commands."""
    if " " in text:
        text = "".join(DIGIT_SPACE_DIGIT.sub("_", text).split())
    if "\\" not in text:
        return text
    if "\\t" in text or "\\m" in text or "\\o" in text:
        text = TEXT_COMMAND.sub(itemgetter(1), text)
    if "\\frac" in text:
        text = SHORT_FRACTION.sub(_long_fraction, text)
    return ESCAPED_SIGN.sub("", text) if "\\%" in text or "\\$" in text else text


def _long_fraction(match: re.Match[str]) -> str:
    return rf"\frac{{{match[1]}}}{{{match[2]}}}"


class Written(NamedTuple):
    """What an answer says in writing: `text` is clean, `form` its squeezed spelling, `number` what it spells, if a
    number."""

    text: str
    form: str
    number: Number | None


@lru_cache(maxsize=8192)
def read(answer: str) -> Written:
    """An answer's text, spelling and number."""
    text = clean(answer)
    return Written(text, squeeze(text), parse_number(text))


def normal_form(answer: str) -> str:
    """A canonical spelling: equal forms count as one distinct answer, unequal ones may still be equal in value."""
    if INTEGER.fullmatch(answer):
        return answer
    if len(answer) > MAX_LENGTH:
        return string_form(answer)
    text, form, number = read(answer)
    if number is not None:
        return f"{number.value}%" if number.percent else str(number.value)
    return form.lower() if WORD.fullmatch(text) else form


def string_form(text: str) -> str:
    """Lower case without white space: the paper scripts' equality."""
    return "".join(text.split()).lower()
