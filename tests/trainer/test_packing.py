"""Promises of the micro-batches: nothing is lost, equal numbers, equal cost, siblings together."""

import random

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.forest import grow
from services.trainer.packing import split_batch
from services.trainer.population import Example

lengths = st.lists(st.integers(2, 300), max_size=40)


def make_examples(sizes: list[int], shared: int = 0) -> list[Example]:
    """Sequences of random tokens, of which the first `shared` are the same."""
    rng = random.Random(0)
    head = [1] * shared
    return [
        Example(
            trajectory=str(place),
            tokens=[*head, *(rng.randrange(10**6) for _ in range(size))],
            spans=[(shared + size - 1, shared + size)],
            coefficient=1.0,
        )
        for place, size in enumerate(sizes)
    ]


@given(lengths, st.integers(0, 30), st.integers(1, 8), st.integers(64, 1024), st.booleans())
def test_a_split_loses_nothing_and_gives_every_rank_as_many_micro_batches(
    sizes: list[int], shared: int, ranks: int, budget: int, packed: bool
) -> None:
    examples = make_examples(sizes, shared)
    split = split_batch(examples, ranks, budget, packed)
    assert len(split) == ranks and len({len(share) for share in split}) == 1 and len(split[0]) >= 1
    micro_batches = [micro for share in split for micro in share]
    flat = [example.trajectory for micro in micro_batches for example in micro]
    assert sorted(flat) == sorted(example.trajectory for example in examples)
    for micro in micro_batches:
        sequences = [example.tokens for example in micro]
        if len(micro) > 1:
            held = len(grow(sequences).tokens) if packed else len(micro) * max(map(len, sequences))
            assert held <= budget


@given(st.lists(st.integers(2, 300), min_size=1, max_size=60), st.integers(2, 8), st.integers(300, 100_000))
def test_no_rank_carries_much_more_than_its_share(sizes: list[int], ranks: int, budget: int) -> None:
    split = split_batch(make_examples(sizes), ranks, budget)
    loads = [sum(len(example.tokens) for micro in share for example in micro) for share in split]
    assert max(loads) <= sum(loads) / ranks + len(split[0]) * (max(sizes) + 1)


def test_siblings_share_a_micro_batch() -> None:
    """Eight groups of four, shuffled, in micro-batches of two groups."""
    groups = [Example(trajectory=f"{group}", tokens=[group] * 50 + [k] * 5, spans=[(50, 55)], coefficient=1.0)
              for group in range(8) for k in range(4)]  # fmt: skip
    random.Random(0).shuffle(groups)
    split = split_batch(groups, 2, 140)
    assert sorted(sorted({example.trajectory for example in micro}) for share in split for micro in share) == [
        ["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]
    ]  # fmt: skip
