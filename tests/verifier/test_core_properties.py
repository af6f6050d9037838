"""The pure core under any input: it ends, in few steps, and keeps its laws."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.verifier.grading.cost import Exhausted, allowance, refusal, spend
from services.verifier.grading.extraction import extract_math
from services.verifier.grading.normal import normal_form
from services.verifier.grading.numerals import parse_number
from services.verifier.grading.parser import parse
from services.verifier.grading.region import MAX_REGION, answer_region
from services.verifier.grading.syntax import Unparsed, depth
from services.verifier.grading.tiers import Decision, decide, decide_math, extract
from shared.grading import Verdict, VerifyItem

PIECES = st.sampled_from(
    [
        *"0123456789xyneiABC+-*/^_=<>(){}[]|,.;:!%$&'\" \n",
        r"\frac",
        r"\sqrt",
        r"\boxed{",
        r"\text{",
        r"\pm",
        r"\int",
        r"\sum_",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\\",
        r"\{",
        r"\}",
        r"\infty",
        r"\cup",
        r"\sin",
        r"\log",
        r"\left(",
        r"\right)",
        "<answer>",
        "</answer>",
        "<think>",
        "</think>",
        "answer is ",
        "not ",
        " and ",
        "**",
        "10^{10^{10}}",
        r"\ldots",
        r"\lim_{x \to 0}",
        "½",
        "答案",
    ]
)
SCRAPS = st.lists(PIECES, max_size=40).map("".join)


@settings(max_examples=80)
@given(gold=SCRAPS, response=SCRAPS | st.text(max_size=80))
def test_every_pair_of_texts_gets_a_decision(gold: str, response: str) -> None:
    for kind in ("math", "choice", "string"):
        item = VerifyItem(id="1", kind=kind, response=response, answer=gold)
        decide(item, extract(item))


@settings(max_examples=80)
@given(text=SCRAPS)
def test_parsing_ends_in_a_bounded_tree_or_unparsed(text: str) -> None:
    try:
        node = parse(text)
    except Unparsed:
        return
    assert depth(node) <= 80


@settings(max_examples=80)
@given(text=SCRAPS.filter(lambda text: text.strip() != "" and "oxed" not in text))
def test_an_answer_equals_itself(text: str) -> None:
    decision = decide_math((text,), text)
    assert isinstance(decision, Decision)
    assert decision.verdict == Verdict.CORRECT


@given(value=st.fractions(max_denominator=10**6), factor=st.integers(2, 99))
def test_fractions_are_equal_as_values(value: Fraction, factor: int) -> None:
    top, bottom = value.numerator * factor, value.denominator * factor
    for response in (f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", rf"-\dfrac{{{-top}}}{{{bottom}}}"):
        assert decide_math((str(value),), response) in [
            Decision(Verdict.CORRECT, "string"),
            Decision(Verdict.CORRECT, "numeric"),
        ]


@given(first=st.integers(-(10**9), 10**9), second=st.integers(-(10**9), 10**9))
def test_integers_are_equal_only_to_themselves(first: int, second: int) -> None:
    decision = decide_math((str(first),), str(second))
    assert isinstance(decision, Decision)
    assert (decision.verdict == Verdict.CORRECT) == (first == second)


@given(roots=st.lists(st.integers(-9, 9), min_size=1, max_size=4), scale=st.integers(1, 5))
def test_a_polynomial_equals_its_expansion_and_not_its_neighbour(roots: list[int], scale: int) -> None:
    factored = f"{scale}" + "".join(f"(x-({root}))" for root in roots)
    coefficients = [scale]
    for root in roots:
        coefficients = [a - root * b for a, b in zip([*coefficients, 0], [0, *coefficients], strict=True)]
    degree = len(roots)
    expanded = "+".join(f"({value})x^{{{degree - place}}}" for place, value in enumerate(coefficients))
    assert decide_math((factored,), expanded) == Decision(Verdict.CORRECT, "symbolic")
    assert decide_math((factored,), f"{expanded}+1") == Decision(Verdict.INCORRECT, "symbolic")


@given(text=st.text(max_size=200))
def test_an_answer_stands_in_the_region(text: str) -> None:
    assert answer_region(f"<think>{text}</think><answer>42</answer>") == "42"
    assert extract_math(f"{text}</think><answer>42</answer>") == "42"


@given(value=st.integers(-(10**12), 10**12))
def test_grouping_digits_changes_nothing(value: int) -> None:
    assert parse_number(f"{value:,}") == parse_number(str(value))
    assert normal_form(f"{value:,}") == normal_form(str(value))


@given(unit=SCRAPS.filter(lambda text: "answer" not in text and "think" not in text), repeats=st.integers(1, 40))
def test_only_the_end_of_a_long_response_is_searched(unit: str, repeats: int) -> None:
    """However long the response: the scans see at most `MAX_REGION` characters of it."""
    assert len(answer_region("7" * MAX_REGION + unit * repeats)) <= MAX_REGION
    assert extract_math("x" * 10 * MAX_REGION + r"\boxed{42}") == "42"


def test_an_allowance_ends_an_evaluation() -> None:
    with allowance(10):
        spend(10)
        with pytest.raises(Exhausted):
            spend(1)


def test_the_guard_knows_what_is_too_much() -> None:
    for text in (
        "10^{10^{10}}",
        "9**9**9",
        "(x+y)^{500}",
        "100000!",
        r"\binom{100000}{50000}",
        "7" * 100,
        "(" * 40 + "1" + ")" * 40,
        "x" * 2000,
    ):
        assert refusal(text) is not None
    for text in (r"\int_0^1 x^2 dx", "2^{100}", r"\lim_{n\to\infty} (1+1/n)^n", "12!"):
        assert refusal(text) is None
