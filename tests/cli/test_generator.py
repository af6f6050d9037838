"""The demo's own problems: deterministic, disjoint, with exactly one right answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.generator import CAPITALS, CATEGORIES, CONFUSABLE, LETTERS, OPPOSITES, OPTIONS, generate
from shared.trajectory import Problem

sizes = st.integers(min_value=0, max_value=200)


def answer_of(problem: Problem) -> str:
    assert isinstance(problem.answer, str)
    assert problem.choices is not None
    return problem.choices[LETTERS.index(problem.answer)]


@settings(max_examples=20)
@given(sizes, sizes, st.integers())
def test_the_same_seed_makes_the_same_disjoint_problems(train: int, test: int, seed: int) -> None:
    made = generate(train, test, seed)
    assert made == generate(train, test, seed)
    assert (len(made.train), len(made.test)) == (train, test)
    facts = [(problem.problem, answer_of(problem)) for problem in (*made.train, *made.test)]
    assert len(set(facts)) == len(facts)
    assert len({problem.id for problem in (*made.train, *made.test)}) == len(facts)


@settings(max_examples=20)
@given(st.integers())
def test_every_problem_has_four_different_options_of_which_one_is_right(seed: int) -> None:
    members = {f"Which of these is {category}?": set(words.split()) for category, words in CATEGORIES.items()}
    for problem in generate(100, 100, seed).train:
        choices = problem.choices
        assert choices is not None
        assert len(set(choices)) == OPTIONS
        right = answer_of(problem)
        if problem.problem in members:
            assert [choice for choice in choices if choice in members[problem.problem]] == [right]
        elif "capital" in problem.problem:
            country = problem.problem.removeprefix("What is the capital of ").rstrip("?")
            assert CAPITALS[country] == right
        else:
            word = problem.problem.split('"')[1]
            assert OPPOSITES[word] == right
            assert word not in choices


def test_no_word_is_in_two_categories() -> None:
    words = [word for text in CATEGORIES.values() for word in text.split()]
    assert len(set(words)) == len(words)
    assert set().union(*CONFUSABLE) <= set(CATEGORIES)


def test_the_right_letters_are_spread_evenly() -> None:
    letters = [problem.answer for problem in generate(400, 0, 1).train]
    assert all(70 <= letters.count(letter) <= 130 for letter in LETTERS)


def test_asking_for_more_than_the_vocabulary_says_how_many_there_are() -> None:
    with pytest.raises(ValueError, match="facts"):
        generate(10_000, 0, 1)
