"""Coverage-guided fuzzing of extraction, of the grammar and of the cost guard: `make fuzz`, or

    pip install atheris && python -m tests.verifier.fuzz [-max_total_time=SECONDS] [other libFuzzer flags] [CORPUS]

atheris has wheels for Linux on x86-64 only, so it is no dependency. Bytes become a gold answer and a response made of
scraps of real answers. What must hold: a decision is reached in bounded steps, no step takes seconds (libFuzzer's
`-timeout`), an answer equals itself, and what the guard lets through is short and shallow. An input that breaks one of
these is kept in .drift/fuzz.
"""

import sys
from pathlib import Path

try:
    import atheris  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
except ImportError:
    sys.exit("Fuzzing needs atheris: pip install atheris")

with atheris.instrument_imports(include=["services.verifier.grading"]):  # pyright: ignore
    from services.verifier.grading.cost import MAX_SYMBOLIC_LENGTH, nesting, refusal
    from services.verifier.grading.tiers import Decision, decide, decide_math, extract

from shared.grading import Kind, Verdict, VerifyItem

SCRAPS = (
    *"0123456789xyneiABCD+-*/^_=<>(){}[]|,.;:!%$&'\" \n\\",
    *r"\frac \sqrt \boxed{ \text{ \pm \int \sum_ \begin{pmatrix} \end{pmatrix} \{ \} \infty \cup \sin \log".split(),
    *("<answer>", "</answer>", "<think>", "</think>", "The answer is ", "not ", " and ", " or ", "**", "Option "),
    *(
        "10^{10^{10}}",
        r"\ldots",
        r"\lim_{x \to 0}",
        "½",
        "答案",
        " cm",
        "€",
        "one half",
        "is correct",
        "°",
        r"\in \mathbb{Z}",
    ),
)
KINDS: tuple[Kind, ...] = ("math", "choice", "string")


def text_of(data: bytes) -> str:
    """Each byte is a scrap; bytes beyond them are characters of their own."""
    return "".join(SCRAPS[byte] if byte < len(SCRAPS) else chr(byte) for byte in data)


def check(data: bytes) -> None:
    """One input: everything that must hold of it."""
    half = len(data) // 2
    gold, response = text_of(data[:half]), text_of(data[half:])
    for kind in KINDS:
        item = VerifyItem(id="fuzz", kind=kind, response=response, answer=gold)
        decide(item, extract(item))
    if response.strip():
        same = decide_math((response,), response)
        assert isinstance(same, Decision) and same.verdict == Verdict.CORRECT, response
    if refusal(response) is None:
        assert len(response) <= MAX_SYMBOLIC_LENGTH and nesting(response) <= 30


if __name__ == "__main__":
    found = Path(".drift/fuzz")
    found.mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], "-timeout=5", "-max_len=400", f"-artifact_prefix={found}/", *sys.argv[1:]], check)
    atheris.Fuzz()
