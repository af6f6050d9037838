"""Which part of a response is the answer's: what follows the reasoning, inside of the last `<answer>`, and nothing that
the model said beyond its own turn."""

import re

MAX_REGION = 16_000
"""Most characters, from the end, in which an answer is looked for."""
SLOT = (
    r"(?:(?:put|write|insert|your|the|a|final|numeric(?:al)?|letter|option|correct"
    r"|short)\s+){0,4}(?:answer|solution|result)(?:\s+(?:here|only|letter|goes\s+here))*"
)
PLACEHOLDER = re.compile(
    rf"[\[(<{{]\s*{SLOT}\s*[\])>}}]\.?|(?:your|insert|put)\s+{SLOT}|\.\.\.|…|\[\s*\]", re.IGNORECASE
)
PLACEHOLDER_STARTS = "[(<{.…yYiIpP"
TOKEN = (
    r"(?:<\|(?:im_end|endoftext|eot_id|end_of_text|end|eom_id|return|user|EOT|im_start)\|>|</s>|<eos>|<pad>|\[PAD\]"
    r"|<end_of_turn>|<｜end▁of▁sentence｜>)"
)
END_OF_TURN = re.compile(TOKEN)
"""Special tokens that end a response; nothing behind them is the model's answer."""
LEADING_TOKENS = re.compile(rf"(?:\s|{TOKEN})*")
END_SEEDS = ("<|", "</s>", "<eos>", "<pad>", "[PAD]", "<end_of_turn>", "<｜")
NEXT_QUESTION = re.compile(r"(?<=\n)\n(?:Question|Problem|Q) ?\d{0,4} ?:")
"""A model that runs on invents the next question."""


def answer_region(response: str) -> str:
    """What follows the last `</think>`, then the inside of the last `<answer>`; the whole text where neither stands."""
    if "<" not in response:
        return tail(own_words(response).strip())
    end = response.rfind("</think>")
    text = own_words(response[end + 8 :] if end >= 0 else response.removeprefix("<think>"))
    text = text.replace("<Answer>", "<answer>").replace("</Answer>", "</answer>") if "Answer>" in text else text
    start = text.rfind("<answer>")
    while start >= 0:
        close = text.find("</answer>", start)
        inside = text[start + 8 : close if close >= 0 else len(text)].strip()
        if inside and not is_placeholder(inside):
            return tail(inside)
        start = text.rfind("<answer>", 0, start)
        if start < 0:
            return ""
    return tail(text.strip())


def own_words(text: str) -> str:
    """The response without what stands behind its end: special tokens, a next question that the model invents."""
    if ("<" in text or "[PAD]" in text) and any(seed in text for seed in END_SEEDS):
        begin = LEADING_TOKENS.match(text)
        start = begin.end() if begin else 0
        end = END_OF_TURN.search(text, start)
        text = text[start : end.start() if end else len(text)]
    invented = NEXT_QUESTION.search(text, 1) if "\n\nQ" in text or "\n\nProblem" in text else None
    return text[: invented.start()] if invented else text


def tail(text: str) -> str:
    """The end of an overlong text: the answer stands last, and every later scan stays short."""
    return text if len(text) <= MAX_REGION else text[-MAX_REGION:]


def is_placeholder(text: str) -> bool:
    """Whether the text is a template's slot and not an answer."""
    return text[:1] in PLACEHOLDER_STARTS and len(text) < 100 and PLACEHOLDER.fullmatch(text) is not None


def split_sentences(text: str) -> list[str]:
    """The sentences and lines of a text, none empty."""
    return [part for part in re.split(r"(?<=[.!?。])\s+|\n+", text.strip()) if part]
