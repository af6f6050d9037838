"""Math: the grammar of answers, both ways."""

import pytest

from services.verifier.grading.tiers import Decision, Deferred, decide, extract
from shared.grading import Verdict, VerifyItem

EQUAL = [
    ("1/2", r"\boxed{0.5}"),
    (r"\frac12", "50%"),
    (r"2\frac{1}{2}", "2.5"),
    ("1{,}234{,}567", "1 234 567"),
    (r"\$18.90", "18.9 dollars"),
    (r"5\text{ cm}", "5"),
    (r"90^\circ", "90 degrees"),
    ("6.63e-34", "6.63 x 10^{-34} J s"),
    (r"0.1\overline{6}", "1/6"),
    ("0.333", "1/3"),
    (r"\pi", "3.14159"),
    ("x = 5", "5"),
    ("5", "5 = x"),
    ("7", "f(2) = 7"),
    ("y = 2x + 3", "2y = 4x + 6"),
    ("x^2/4 + y^2/3 = 1", "x^2/16 + y^2/12 = 1/4"),
    (r"x \ge 2", "2 <= x"),
    ("(a+b)^2", "b^2 + 2ab + a^2"),
    (r"\sqrt{8}", "2*sqrt(2)"),
    (r"\sqrt{5+2\sqrt6}", r"\sqrt2 + \sqrt3"),
    ("2**(1/4)", r"\sqrt[4]{2}"),
    ("exp(16)", "e^{16}"),
    ("7*sin(pi*x/5)+1", r"1+7\sin\left(\frac{\pi x}{5}\right)"),
    (r"\sin 2x", r"2\sin x\cos x"),
    (r"\log_2 8", "3"),
    (r"\tan^{-1}(1)", r"\pi/4"),
    ("14 - i", "14.0 + -1.0i"),
    ("(3, 4)", r"\left(3,4\right)"),
    ("1, 2, 3", "3, 1 and 2"),
    (r"\{1,2\}", r"x=2 \text{ or } x=1"),
    (r"x = \pm 2", "-2, 2"),
    ("(1, 2)", "a=1, b=2"),
    ("[0, 1)", r"0 \le x < 1"),
    (r"(-\infty,2)\cup(3,\infty)", r"x>3 \text{ or } x<2"),
    (r"\mathbb{R}\setminus\{0\}", r"x \neq 0"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[3,4]]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1, 2)"),
    (r"\frac{100!}{98!}", "9900"),
    ("3:4", "3/4"),
    (r"\sum_{k=1}^{10} k", "55"),
    (r"\int x^{2}\, dx", r"\frac{x^3}{3} + C"),
    ("2x", r"\frac{d}{dx} x^2"),
    (r"1,2,\ldots,10", r"1, 2, \ldots, 10"),
    ("True", "The statement is true."),
    ("(d)", "The answer is (d)."),
    ("(d)", "We look at all 3 of them in turn. So it must be (d)."),
    (r"\text{odd}", "$odd$"),
    ("10:30 AM", "10:30 a.m."),
    ("3:00 PM", "3 PM"),
    ("7:45 PM", "The train arrives there at 7:45 PM on Mondays."),
    ("3:4", "The ratio of boys to girls is 3:4."),
    ("2 3/4", "The recipe needs 2 3/4 cups."),
    ("540", "He runs 540 meters a week."),
    ("-7", "It is negative 7 degrees outside."),
    ("125", "one hundred and twenty-five"),
    ("(2, -1)", "y = -1, x = 2"),
    (r"(-\infty,1)\cup(2,\infty)", r"x < 1 \text{ or } x > 2"),
    ("x < a or x > b", "x > b or x < a"),
    ("x > 1", "x > 1 or x > 2"),
    ("$0.25", "25 cents"),
    ("25", "$25"),
    ("90", "90 sec"),
    (r"5\text{ min}", "300 s"),
    ("1 hour 30 minutes", "90 min"),
    ("2 kN", "2000 N"),
    ("1/6", "0.1667"),
    (r"\pi/3", "1.047"),
    ("sqrt(5)/2", "np.sqrt(5)/2"),
    ("1/2", "Fraction(1, 2)"),
    ("[[1,2],[3,4]]", r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]"),
    ("12", "12 more apples"),
    ("2024-01-02", "2024-1-2"),
    ("0.25", "a quarter"),
    ("24", "two dozen"),
    ("1/4", "1 out of 4"),
]

DIFFERENT = [
    ("2^{-99}", "2^{-98}"),
    ("10^{-30}", "0"),
    ("2^{1000}", "2^{1000}+1"),
    ("100!", "99!"),
    ("1/3", "0.333"),
    ("12", "12.0001"),
    ("12.5%", "1.25"),
    (r"\pi", "22/7"),
    ("x = 5", "y = 5"),
    ("y = x + 1", "y = x - 1"),
    ("0", "x^2 - 5x + 6 = 0"),
    ("x > 2", r"x \ge 2"),
    ("(3, 4)", "(4, 3)"),
    ("(0, 1)", "[0, 1]"),
    ("2", "[0]"),
    ("12", "(1, 2)"),
    ("1, 2, 3", "1, 2"),
    ("n=2, 3, 4", "n=1, 2, 3"),
    (r"1\pm\sqrt5", r"1+\sqrt5"),
    (r"1,2,\ldots,10", r"1, 2, \ldots, 9"),
    (r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", r"\frac{1}{3 \cdot 2^{2006}}"),
    ("(a+5)(b+2)", "(+5)(b+2)"),
    (r"5\text{ cm}", r"5\text{ m}"),
    ("x+2n+1", "x+1"),
    ("|x|", "x"),
    (r"\overrightarrow{AB}", "AB"),
    ("3:29 AM", "6:58 AM"),
    ("True", "False"),
    ("(d)", "The answer is (c)."),
    ("p - q", "p q"),
    ("5", "(-infinity, 5)"),
    ("5", "January 5"),
    (r"\text{no solution}", "0"),
    ("3 < x < 7", "x > 3 or x < 7"),
    ("(-1, 2)", "y = -1, x = 2"),
    ("4", "The ratio of boys to girls is 3:4."),
    ("45", "The train arrives there at 7:45 PM."),
    ("3/4", "The recipe needs 2 3/4 cups."),
    ("7", "It is negative 7 degrees outside."),
    ("12", "more than 12"),
    ("5", "greater than 5"),
    ("12", "negative 12"),
    ("$25", "25 cents"),
    ("20 N", "20 kN"),
    ("5 cm", "5%"),
    (r"60^\circ", "60%"),
    ("3 USD", "3 EUR"),
    ("ABC", "ACB"),
    ("2024-01-02", "2024-02-01"),
    ("1/2/2024", "2/4/2024"),
    ("1/6", "0.1666"),
    ("3 PM", "3 AM"),
]

EXTRACTED = [
    ("<think>It is 3, or \\boxed{4}</think><answer>5</answer>", "5"),
    ("<think> [Your thoughts] </think> <answer> [your answer] </answer>", None),
    (r"\boxed{10} and then \boxed{42}", "42"),
    (r"\boxed{4} and \boxed{5}", "4, 5"),
    (r"\boxed{\frac13} \approx \boxed{0.333}", r"\frac13"),
    (r"\fbox{\boxed{7}}", "7"),
    ("The final answer is $42$. I hope it is correct.", "42"),
    ("The answer is 7. Because 3+4 = 7, not 8.", "7"),
    ("**Answer:** 7", "7"),
    ("#### 70", "70"),
    ("答案是13。", "13"),
    ("so $x=1$, $x=2$ and $x=5$", "x=1, x=2, x=5"),
    ("Le coût final est donc de 100 - 30 = 70 euros", "70"),
    (r"\frac{4}{23}", r"\frac{4}{23}"),
    ("I do not know", None),
    ("2x+3=13\n2x=10\nx=5", "x=5"),
    ("x = 4\ny = -1", "x = 4, y = -1"),
    ("x = 10/2\nx = 5", "x = 5"),
    ("[[1, 2],\n [3, 4]]", "[[1, 2],\n [3, 4]]"),
    ("12\nunits", "12\nunits"),
    ("20\n\nI multiplied 5 by 4.", "20"),
    ("Tom has 2*80=160 sheep. Ann has 20. So together: 160+20 = 180 sheep.", "180"),
    ("6, because there are 3 pairs.", "6"),
    ("He lost some since last year, and bought 3, so he has 9", "9"),
    ("The lines meet at the point (3, 4).", "(3, 4)"),
    ("So the matrix is [[1, 2], [3, 4]].", "[[1, 2], [3, 4]]"),
    ("The number is six.", "six"),
    ("I cannot find one.", None),
    ("The answer is 42 (the product is 80).", "42"),
]


def grade(response: str, answer: str | list[str]) -> Decision | Deferred:
    item = VerifyItem(id="1", response=response, answer=answer)
    return decide(item, extract(item))


@pytest.mark.parametrize(("gold", "response"), EQUAL)
def test_equal_answers_are_correct(gold: str, response: str) -> None:
    decision = grade(response, gold)
    assert isinstance(decision, Decision)
    assert decision.verdict == Verdict.CORRECT


@pytest.mark.parametrize(("gold", "response"), DIFFERENT)
def test_different_answers_are_incorrect(gold: str, response: str) -> None:
    decision = grade(response, gold)
    assert isinstance(decision, Decision)
    assert decision.verdict == Verdict.INCORRECT


@pytest.mark.parametrize(("response", "answer"), EXTRACTED)
def test_the_answer_is_read_where_it_stands(response: str, answer: str | None) -> None:
    assert extract(VerifyItem(id="1", response=response, answer="1000003")).answer == answer


def test_any_of_several_golds_will_do() -> None:
    decision = grade("x = 3", ["2", r"\frac{6}{2}"])
    assert isinstance(decision, Decision)
    assert decision.verdict == Verdict.CORRECT


def test_no_answer_is_unparsable() -> None:
    assert grade("I do not know", "5") == Decision(Verdict.UNPARSABLE, None)


@pytest.mark.parametrize(("gold", "response"), [("1", r"\lim_{x\to 0} \frac{\sin x}{x}"), ("9", r"\int_0^3 t^2 dt")])
def test_calculus_is_left_to_the_symbolic_tier(gold: str, response: str) -> None:
    assert isinstance(grade(rf"\boxed{{{response}}}", gold), Deferred)


def test_what_the_guard_refuses_is_an_error_and_never_incorrect() -> None:
    decision = grade(r"\boxed{99^{99^{98}}}", "99^{99^{99}}")
    assert isinstance(decision, Decision)
    assert decision.verdict == Verdict.ERROR
    assert "Refused" in (decision.detail or "")


@pytest.mark.parametrize(
    ("first", "second"), [("0.5", r"\frac{1}{2}"), ("1,000", "1000"), ("$x+1$", "x + 1"), (r"\dfrac12", r"\frac{1}{2}")]
)
def test_normal_forms_count_one_answer_once(first: str, second: str) -> None:
    forms = {
        extract(VerifyItem(id="1", response=rf"\boxed{{{text}}}", answer="7")).normal_form for text in (first, second)
    }
    assert len(forms) == 1


def test_string_kind_is_white_space_free_lower_case_equality() -> None:
    item = VerifyItem(id="1", kind="string", response="<answer> X + 1 </answer>", answer="x+1")
    assert decide(item, extract(item)) == Decision(Verdict.CORRECT, "string")
    other = VerifyItem(id="1", kind="string", response="<answer>1/2</answer>", answer=r"\frac{1}{2}")
    assert decide(other, extract(other)) == Decision(Verdict.INCORRECT, "string")


@pytest.mark.parametrize("gold", ["", " "])
def test_nothing_said_is_no_answer_even_to_an_empty_gold(gold: str) -> None:
    assert grade("", gold) == Decision(Verdict.UNPARSABLE, None)
