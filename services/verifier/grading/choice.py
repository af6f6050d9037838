"""Which of an item's options a response chooses.

Only the item's own letters count. A bare upper-case `A` or `I` inside prose is an article or a pronoun, never a
choice. A response that names several letters chooses none, unless the gold answer itself names several.
"""

import re
import unicodedata
from collections.abc import Sequence

from services.verifier.grading.boxes import MAX_CHAIN, find_boxes
from services.verifier.grading.options import mentioned_option, opening_option, option_of
from services.verifier.grading.region import answer_region, is_placeholder, split_sentences

DEFAULT_LETTERS = "ABCDEFGHIJ"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

WRAP_OPEN = (
    r"[\s*_`\"'“‘「『({\[<$~>#•→⇒➜-]*(?:\\(?:text|textbf|mathrm|mathbf|mbox|boxed|bf|rm|textit|left|bold"
    r"|mathit)[\s({\[]*)*"
)
LETTER = (
    r"(?P<open>"
    + WRAP_OPEN
    + r")(?P<letter>[A-Za-z])(?P<close>\s?[)}\]>*_`\"'”’」』】.:：,，;$、。!?]*)(?![A-Za-z0-9'’_^=+\\]|\s*=)"
)
ANNOUNCE = re.compile(
    r"(?:(?<![A-Za-z])(?:answers?|choices?|options?|ans)(?![A-Za-z])|\bsolution\b|\bchoose\b|\bpick\b|\bselect\b|\bgo\s+with\b|\bchosen\b|\bconclusion\b"
    r"|\bfinal\b|####|答案|选项|選項|选择|应选|故选|选|正解|答え|정답|réponse|respuesta|antwort|ответ|risposta|resposta|jawaban|cevap|đáp\s+án|الإجابة|الجواب|उत्तर|opción|opção|alternativa|letra)",
    re.IGNORECASE,
)
BRIDGE = re.compile(
    r"[\s*_`\"'’]*(?:(?:\([^()\n]{2,40}\)|choices?|options?|letter|answers?|to|for|of|in|that|which|we|you|i(?=\s+(?:choose|chose|pick|select|think|believe|get|got|found|would|am|have))|this|these|above|given|your|our"
    r"|my|question|problem|final|correct|best|right|most|appropriate|likely|closest|matching|statement|therefore|thus|hence|so|then|now|here"
    r"|only|must|should|would|will|could|can|may|the|among|from|listed|select(?:ed)?|is|are|was|be|as|has|have|been|description|process"
    r"|describes|explanation|following|correcta|correcto|correcte|correta|bonne|richtige|esatta|corretta)\b[\s,*_`]*|[】\]»]\s*){0,14}"
    r"(?:(?:(?:is|are|be|est|es|ist|lautet|é|è|la|a(?=\s+letra))\b|是|为|為|は|選|选|：|:|=|-+>|→|➜|-(?=\s))[\s*_`]*){0,4}"
    r"(?:(?:therefore|thus|hence|simply|just|clearly|most\s+likely|probably|definitely|indeed|the|option|choice|letter|answer|number|opción|opção|letra|选项|選項)\b[\s:*_`]*){0,4}",
    re.IGNORECASE,
)
TOKEN = re.compile(LETTER)
JOINT = re.compile(
    r"\s*(?:/|&|\+|,|;|\band\b|\bor\b|,\s*(?:and|or)\b|和|或|与|及|、|，)\s*(?:both\s+)?(?:options?\s*)?[\s*_`\"'({\[]*(?P<letter>[A-Za-z])(?![A-Za-z0-9'’])",
    re.IGNORECASE,
)
NEGATED = re.compile(
    r"[\s*_`]*(?:not|n't|neither|isn't|wasn't|(?:can|could|should|would|must|does|do|will)\s*(?:not|n't)|cannot|没有|不是|不)\b",
    re.IGNORECASE,
)
WRONG = re.compile(
    r"[)\]}*_`\"'”:]*[^\S\n]*(?:(?!\b(?:because|since|as|but|while)\b|,)[^\n.;!?]){0,40}?\b(?:is|are|was|were|seems|would\s+be|must\s+be|can\s+be)\s+(?:\w+\s+){0,2}?"
    r"(?:not|incorrect|wrong|false|eliminated|excluded|ruled\s+out|impossible|invalid|out)\b"
    r"|[)\]}*_`\"'”.]*[^\S\n]*[:–-]?[^\S\n]*[*_]*(?:incorrect\b|wrong\b|false\b|no\b|✗|✘|❌|✖|×)"
    r"|[)\]}*_`\"'”:]*[^\S\n]*(?:isn't|cannot|can't|doesn't|does\s+not|can\s+not)\b",
    re.IGNORECASE,
)
"""What follows a letter that a response rejects."""
DENIED = re.compile(
    r"(?:\b(?:not|never|nor|neither|cannot|instead\s+of|rather\s+than|as\s+opposed\s+to|anything\s+but|rul(?:e|es|ed|ing)\s+out"
    r"|eliminat(?:e|es|ed|ing)|exclud(?:e|es|ed|ing)|discard(?:s|ed|ing)?|reject(?:s|ed|ing)?)|n't)\s+"
    r"(?:be\s+|(?:think|believe|say)\b(?:(?!\bbut\b)[^.,;:!?\n]){0,30}?\s)?(?:the\s+)?(?:(?:options?|choices?|answers?|letters?)\s+)?"
    r"[\s*_`\"'“‘(\[{$]*$",
    re.IGNORECASE,
)
"""What stands before a letter that a response rejects: `not B`, `rule out option B`, `I don't think it's B`."""
MARKED_RIGHT = re.compile(r"(?<![A-Za-z])([A-Z])[)\].:*_ –-]+(?:(?:correct|right|true)\b|✅|✓|✔|☑)", re.IGNORECASE)
CLOSED = re.compile(
    r"\s*(?:$|\n|[.!。,;](?:\s|$)|(?:is|are)\s+(?:\w+\s+){0,2}(?:correct|right|true|best|answer|chosen)\b|as\s+(?:the|my)\b)",
    re.IGNORECASE,
)
"""What may follow a letter after a mere `option`: `option B.`, `option B is correct`, and not `option B says`."""
LAYOUT = re.compile(
    r"\\[()\[\]]|</?(?:strong|em|span|code|br|p|div|mark)\s*/?>|</?b>(?=.{0,80}</b>|\W|$)", re.IGNORECASE
)
NONE_OF = re.compile(
    r"[\s*_`\"']*(?:none|neither|all|both|unclear|unknown|n/a|cannot|can't|not\s+(?:sure|possible|listed|given|provided))\b",
    re.IGNORECASE,
)
RIGHT = re.compile(
    r"(?<![A-Za-z0-9])(?P<letter>[A-Z])(?P<close>[)\]}*_`\"'”.:]*)(?:\s*[:.]\s*[^\n.]{1,80}?)?\s+(?:is|are|seems|appears\s+to\s+be|must\s+be|would\s+be)\s+"
    r"(?:therefore\s+|thus\s+|clearly\s+|definitely\s+|indeed\s+)?(?:the\s+)?(?:only\s+|most\s+|best\s+)?(?:correct|right|true|best|answer|appropriate|accurate|closest)"
)
CONCLUDE = re.compile(
    r"(?:\btherefore\b|\bthus\b|\bhence\b|\bso\b|\bconsequently\b|\bleaving\b|\bleaves\b|\bit'?s\b|\bit\s+is\b|\b(?:must|should|would)\s+be\b|\bonly\b|→|⇒|\bbut\b|\binstead\b|\brather\b|所以|因此|故)[\s,:，]*"
    r"(?:(?:it(?:'s|\s+is|\s+must\s+be)|we\s+(?:choose|pick|have)|i\s+(?:choose|pick)|the|correct|only)\s+)*(?:option\s+|choice\s+)?(?P<at>)",
    re.IGNORECASE,
)
WRAPPED = re.compile(r"[(\[{*\"]{1,3}(?P<letter>[A-Za-z])[)\]}*\"]{1,3}")
VERB = re.compile(r"\s+(?:is|was|are|were|would|could|may|might|cannot|can|can't|isn't|has|does|doesn't|will)\b")
JOINING_WORD = re.compile(r"\b(?:and|or)\b|[和或与及]", re.IGNORECASE)
JOINT_WORD = re.compile(r"[\s$,]*(?:and|or|&|,|/)[\s$]*", re.IGNORECASE)
JOINED_BEFORE = re.compile(r"(?:\b[A-Z]\b[)*\]]*\s*(?:,|and|or|&|/)+\s*)+[\s(*\[]*$")
LINKED = re.compile(r"[:：=是为為>→➜】]|\b(?:is|are|be|es|est|ist|é|è)\b")
LISTED = re.compile(r"(?<![A-Za-z])([A-Z])[).:](?!\w)")
LOWER_WORD = re.compile(r"\s+[a-z]")
CLOSE = re.compile(r"[)\]}*_`\"']*")
RUN = re.compile(r"[\s*_`\"'({\[]*([A-Z]{2,26})(?![A-Za-z0-9])")
SOLE = re.compile(
    r"(?:^|[,:]\s+|\b(?:only|just|(?<!not\s)be|like|definitely|certainly|is|say|prefer|with|to|as|either|namely|likely|probably|answer|option|choice)\s+)([B-HJ-Z])(?![A-Za-z0-9'’_^(]|\s*=)",
    re.IGNORECASE,
)
NONE_OF_ALL = re.compile(r"[\s*_`\"']*(?:none|neither|all|both)\b", re.IGNORECASE)
AFTER_ARTICLE = re.compile(
    r"\s*(?:$|[.,;:!?)\]}*_\"'。，、\n-]|(?:because|since|as|for|which|is|was|due|given|with|based|i\s+hope|\()\b|\()",
    re.IGNORECASE,
)


def item_letters(letters: str | None, choices: Sequence[str] | None) -> str:
    """The letters that count for an item, upper-case."""
    if letters:
        return "".join(dict.fromkeys(letters.upper()))
    return ALPHABET[: len(choices)] if choices else DEFAULT_LETTERS


def gold_letters(gold: str, letters: str, choices: Sequence[str] | None) -> str:
    """The letters a gold answer names, in alphabetical order; "" where it names none."""
    text = re.sub(r"\\(?:text|mathrm|boxed|textbf)", "", gold).strip().strip("$(){}[]. ")
    named = [part for part in re.split(r"[\s,;&/]+|\band\b", text) if part]
    if len(named) == 1 and named[0].isupper() and 1 < len(named[0]) <= len(letters) and set(named[0]) <= set(letters):
        named = list(named[0])
    if named and all(len(part) == 1 and part.upper() in letters for part in named):
        return "".join(sorted({part.upper() for part in named}))
    token = TOKEN.match(text)
    if token and token["letter"] in letters and token["close"].strip():
        return token["letter"]
    return option_of(gold, letters, choices) or ""


def extract_choice(response: str, letters: str, choices: Sequence[str] | None, several: bool = False) -> str | None:
    """The chosen letters (one, or several in alphabetical order where `several`); None where there is no clear
    choice."""
    text = plain_letters(answer_region(response))
    if not text or is_placeholder(text):
        return None
    chosen = _boxed(text, letters, choices, several)
    if chosen is None and len(text) < 200:
        chosen = _of_short(text, letters, choices, several) or None
    if chosen is None:
        announced = _announced(text, letters, choices, several)
        declared = _declared_right(text, letters, several)
        found = max((announced, declared), key=lambda evidence: evidence[0] if evidence else -1)
        chosen = found and found[1]
    if chosen is None and _ends_in_options(text):
        return None
    for find in (_leading, _concluded, _last_line, _sole):
        if chosen is None:
            chosen = find(text, letters, several)
    if chosen is not None:
        return chosen or None
    return option_of(text, letters, choices) or mentioned_option(text, letters, choices)


def plain_letters(text: str) -> str:
    """The text without markup that may stand around a letter, full-width signs in their plain form."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return LAYOUT.sub(lambda mark: "$" if mark[0][0] == "\\" else " ", text) if "\\" in text or "<" in text else text


def _boxed(text: str, letters: str, choices: Sequence[str] | None, several: bool) -> str | None:
    """The choice of the last box that holds one; "" where its neighbour, joined by `and` or `or`, holds another."""
    boxes = find_boxes(text)[-MAX_CHAIN:]
    found: str | None = None
    for box, after in zip(reversed(boxes), [None, *reversed(boxes)], strict=False):
        chosen = _of_short(box.content(text), letters, choices, several)
        if found is not None:
            joined = after is not None and box.end <= after.start and JOINT_WORD.fullmatch(text[box.end : after.start])
            if not joined or chosen is None or chosen == found:
                return found
            found = "".join(sorted({*found, *chosen})) if several else ""
        elif chosen is not None:
            found = chosen
    return found


def _of_short(text: str, letters: str, choices: Sequence[str] | None, several: bool) -> str | None:
    """The choice of a box or a whole short answer; "" for an ambiguous one."""
    text = text.strip()
    bare = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox|boxed|left|right|bf|rm)\b|[\s(){}\[\]$*_`\"'.“”]", "", text)
    if len(bare) == 1 and bare.upper() in letters:
        return bare.upper()
    named = [part for part in re.split(r"[,;/&]|and", bare) if part]
    if len(named) > 1 and all(len(part) == 1 and part.upper() in letters for part in named):
        return "".join(sorted({part.upper() for part in named})) if several else ""
    if several and 1 < len(bare) <= len(letters) and bare.isupper() and set(bare) <= set(letters):
        return "".join(sorted(set(bare)))
    option = option_of(text, letters, choices)
    if option:
        return option
    token = TOKEN.match(text)
    if token and ("\n" not in text or len(text) < 120) and not WRONG.match(text, token.end("letter")):
        return _judge(text, token, letters, several, strict=True) if len(set(LISTED.findall(text))) < 2 else None
    return None


def _judge(text: str, token: re.Match[str], letters: str, several: bool, *, strict: bool) -> str | None:
    """Whether a letter token is a choice: None if it is a word, "" if it is one of several."""
    letter = token["letter"]
    if letter.upper() not in letters:
        return None
    wrapped = bool(token["open"].strip(" \n\t*_`\"'“‘$~")) or token["close"][:1] in (")", "]", "}")
    rest = text[token.end() :]
    ended = token["close"].strip() != "" or not rest.strip() or rest.startswith("\n")
    named, end = _joined(text, token, letters, wrapped)
    if len(named) > 1:
        if WRONG.match(text, end):
            return None
        return "".join(sorted(named)) if several else ""
    if letter.islower() and not wrapped:
        listed = strict and token["close"][:1] in (".", ":")
        if not listed and not (ended and not rest.split("\n", 1)[0].strip()):
            return None
    if not wrapped and not ended:
        if letter in "AI" and not AFTER_ARTICLE.match(rest):
            return None
        if strict and (VERB.match(rest) or not rest[0].isspace()):
            return None
    return letter.upper()


def _joined(text: str, token: re.Match[str], letters: str, wrapped: bool) -> tuple[set[str], int]:
    """The letters that a conjunction, comma or slash joins to a token's letter, and that letter; where they end."""
    named = {token["letter"].upper()}
    position = token.end() - (len(token["close"]) - len(token["close"].rstrip(" ,;，、")))
    while joint := JOINT.match(text, position):
        other = joint["letter"]
        closed = CLOSE.match(text, joint.end())
        after = closed.end() if closed else joint.end()
        if (
            other.upper() not in letters
            or (other.islower() and not wrapped)
            or (other in "AI" and LOWER_WORD.match(text, joint.end()))
            or (not JOINING_WORD.search(joint[0]) and VERB.match(text, after))
        ):
            break
        named.add(other.upper())
        position = after
    return named, position


def _announced(text: str, letters: str, choices: Sequence[str] | None, several: bool) -> tuple[int, str] | None:
    """Where the last marker (`answer`, `choose`, `option`, ...) that a choice follows stands, and the choice."""
    for marker in reversed(list(ANNOUNCE.finditer(text))[-24:]):
        chosen = _after_marker(text, marker, letters, choices, several)
        if chosen is not None:
            return marker.start(), chosen
    return None


def _after_marker(
    text: str, marker: re.Match[str], letters: str, choices: Sequence[str] | None, several: bool
) -> str | None:
    bridge = BRIDGE.match(text, marker.end())
    position = bridge.end() if bridge else marker.end()
    if position >= len(text):
        return None
    explicit = LINKED.search(text, marker.end(), position) is not None
    option = opening_option(text, marker.end(), position, letters, choices) if explicit and choices else None
    if option:
        return option
    if NEGATED.match(text, position):
        concluded = _concluded(text[position : position + 300], letters, several)
        return concluded or None
    if explicit and NONE_OF.match(text, position):
        clause = text[position:].split("\n", 1)[0]
        bracketed = [m["letter"] for m in WRAPPED.finditer(clause) if m["letter"] in letters]
        option = option_of(clause, letters, choices) or (bracketed[0] if len(bracketed) == 1 else None)
        named = NONE_OF_ALL.match(text, position) and marker[0].lower().startswith("answer")
        return option or ("" if named else None)
    run = RUN.match(text, position) if several else None
    if run and set(run[1]) <= set(letters):
        return "".join(sorted(set(run[1])))
    token = TOKEN.match(text, position)
    if not token or _is_denied(text, token.start("letter")):
        return None
    chosen = _judge(text, token, letters, several, strict=False)
    remark = explicit and ":" in token["close"]  # `the answer is C: it is not a prime`
    if chosen is None or (not remark and WRONG.match(text, token.end("letter"))):
        return None
    if marker[0].lower() in ("options", "choices") and len(set(LISTED.findall(text, token.start()))) > 1:
        return None
    mentions = marker[0].lower().startswith(("option", "choice"))
    if mentions and not explicit and len(chosen) == 1:
        return chosen if CLOSED.match(text, token.end("letter") + len(token["close"].rstrip(" .,;:。"))) else None
    plain = not token["open"].strip() and not token["close"].strip()
    ends = not text[token.end() :].strip()
    return chosen if explicit or mentions or not plain or ends or chosen not in "AI" else None


def _declared_right(text: str, letters: str, several: bool) -> tuple[int, str] | None:
    """Where the last `[D] is correct`, `(B) is the right answer` or `C. Correct` stands, and its letter."""
    found = [
        (m.start(), m["letter"])
        for m in RIGHT.finditer(text)
        if m["letter"] in letters
        and not re.match(r"\s+not\b", text[m.end("close") :][:40])
        and not _is_denied(text, m.start())
    ]
    marked = [(m.start(), m[1].upper()) for m in MARKED_RIGHT.finditer(text) if m[1].upper() in letters]
    if len(marked) == 1:
        found += marked
    if not found:
        return None
    start, letter = max(found)
    before = JOINED_BEFORE.search(text, max(0, start - 60), start)
    if before and (named := {letter, *re.findall("[A-Z]", before[0])}) <= set(letters):
        return start, "".join(sorted(named)) if several else ""
    return start, letter


def _is_denied(text: str, letter: int) -> bool:
    return DENIED.search(text[max(0, letter - 60) : letter]) is not None


def _is_rejected(text: str, start: int, end: int) -> bool:
    """Whether the letter that stands there is one that the response rejects, by what is before or behind it."""
    return WRONG.match(text, end) is not None or _is_denied(text, start)


def _leading(text: str, letters: str, several: bool) -> str | None:
    """`C. because ...`, `(C) text`, `C` on the first line."""
    token = TOKEN.match(text)
    if not token or (not token["close"].strip() and text[token.end() :][:1] not in ("\n", "")):
        return None
    if WRONG.match(text, token.end("letter")) or len(set(LISTED.findall(text))) > 1:
        return None
    return _judge(text, token, letters, several, strict=True)


def _concluded(text: str, letters: str, several: bool) -> str | None:
    """`..., so B`, `therefore (C)`."""
    for match in reversed(list(CONCLUDE.finditer(text))[-12:]):
        token = TOKEN.match(text, match.end())
        chosen = token and _judge(text, token, letters, several, strict=False)
        if token and _is_rejected(text, *token.span("letter")):
            continue
        if token and chosen and (chosen not in "AI" or token["close"].strip() or not text[token.end() :].strip()):
            return chosen
    return None


def _last_line(text: str, letters: str, several: bool) -> str | None:
    """The last line holds nothing but a letter, or starts with one as an option does."""
    line = text.rstrip().rsplit("\n", 1)[-1]
    token = TOKEN.match(line)
    if not token or (line[token.end() :].strip() and not token["close"].strip()):
        return None
    if WRONG.match(line, token.end("letter")):
        return None
    return _judge(line, token, letters, several, strict=True)


def _ends_in_options(text: str) -> bool:
    """Whether the last line is the last of the options, written out one after the other."""
    line = text.rstrip().rsplit("\n", 1)[-1]
    token, listed = TOKEN.match(line), LISTED.findall(text)
    return bool(token and line[token.end() :].strip()) and len(set(listed)) > 2 and listed.count(line.strip()[0]) == 1


def _sole(text: str, letters: str, several: bool) -> str | None:
    """The only letter that the last sentence, or else the whole text, names in brackets or emphasis."""
    sentences = split_sentences(text)
    for part in (sentences[-1] if sentences else "", text):
        wrapped = {
            m["letter"].upper()
            for m in WRAPPED.finditer(part)
            if m["letter"].upper() in letters and not _is_rejected(part, *m.span())
        }
        if len(wrapped) == 1:
            return wrapped.pop()
        plain = {m[1] for m in SOLE.finditer(part) if m[1] in letters and not _is_rejected(part, *m.span(1))}
        if not wrapped and len(plain) == 1 and len(text) < 400:
            return plain.pop()
        if wrapped:
            return None
    return None
