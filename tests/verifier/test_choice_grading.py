"""Multiple choice: only the item's own letters, words are never letters, ambiguity is no choice."""

import pytest

from services.verifier.grading.tiers import Decision, decide, extract
from shared.grading import Verdict, VerifyItem

CAPITALS = ["Berlin", "Bonn", "Paris", "Not Paris"]


def chosen(response: str, **item: object) -> str | None:
    return extract(
        VerifyItem.model_validate({"id": "1", "kind": "choice", "response": response, "answer": "C", **item})
    ).answer


@pytest.mark.parametrize(
    "response",
    [
        "C",
        "c",
        "C.",
        "(C)",
        "**C**",
        "_C_",
        '"C"',
        r"\boxed{\text{C}}",
        r"$\boxed{\textbf{(C)}\ 12}$",
        r"\boxed{ [C] }",
        "The answer is C",
        "The correct answer is therefore (C) Paris.",
        "_Answer:_ C",
        "ANSWER: (C) 300\nLet me know.",
        "Answer: A\nAnswer: C",
        "The answer is not A, so C.",
        "[C] is correct",
        "(C) is the right option.",
        "Therefore, C.",
        "Among A, B, C and D, the answer is C.",
        "A is wrong because x. B is wrong because y. C is right because z.",
        "答案：C，因为",
        "故选C。",
        "La respuesta correcta es C.",
        "Die Antwort ist C.",
        "<think>A? B?</think><answer>C</answer>",
        "The answer is not listed, but the closest option is (C)",
        "### Final Answer:\n**C**",
        "Hence option C is correct, and not option B.",
        "Neither A nor B is correct. C is.",
        "I don't think it's A, but C is right.",
        "Rather than A, I choose C.",
        "The answer is C: it is not a prime.",
        "Options:\nA. 12\nB. 15\nC. 18\nD. 21\n\nC. 18",
    ],
)
def test_a_clear_choice_is_read(response: str) -> None:
    assert chosen(response) == "C"


@pytest.mark.parametrize(
    "response",
    [
        "A and C",
        "A or C",
        "Answer: A/C",
        "ANSWER: None of the above",
        "I do not know.",
        "A car is fast.",
        "I think so.",
        "Vitamin C is important.",
        "<answer> [your answer] </answer>",
        "The answer is a car.",
        "Definitely not (C).",
        "Anything but C",
        "I don't think it's C.",
        "We can rule out option C.",
        "A. 12\nB. 15\nC. 18\nD. 21",
        "Options:\nA. I only\nB. II only\nC. III only\nD. None",
    ],
)
def test_words_and_several_letters_are_no_choice(response: str) -> None:
    assert chosen(response) is None


def test_letters_come_from_the_item() -> None:
    assert chosen("The answer is (E).", letters="ABCD") is None
    assert chosen("The answer is (L).", choices=[f"option {number}" for number in range(12)]) == "L"
    assert chosen("The answer is (J).") == "J"
    assert chosen("The answer is (K).") is None


@pytest.mark.parametrize(
    "response", ["Paris", "The answer is Paris.", r"\boxed{Paris}", "<answer>paris</answer>", "C. Paris"]
)
def test_an_option_may_be_named_by_its_text(response: str) -> None:
    assert chosen(response, choices=CAPITALS) == "C"


def test_the_longest_option_wins() -> None:
    assert chosen("The answer is Not Paris", choices=CAPITALS) == "D"


def test_several_letters_answer_a_gold_of_several() -> None:
    for response, verdict in (
        ("ANSWER: C, A", Verdict.CORRECT),
        ("ANSWER: AC", Verdict.CORRECT),
        ("ANSWER: A", Verdict.INCORRECT),
    ):
        item = VerifyItem(id="1", kind="choice", response=response, answer="A,C")
        decision = decide(item, extract(item))
        assert isinstance(decision, Decision)
        assert decision.verdict == verdict
