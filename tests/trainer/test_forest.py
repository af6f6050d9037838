"""Promises of the forest: what sequences begin with in common is there once, and each sees its own tokens only."""

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.attention import cut_blocks
from services.trainer.forest import common_prefix, grow

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=20)


@given(sequences)
def test_every_sequence_is_a_path_whose_nodes_see_exactly_what_is_before_them(made: list[list[int]]) -> None:
    forest = grow(made)
    for sequence, path in zip(made, forest.paths, strict=True):
        assert [forest.tokens[node] for node in path] == sequence
        assert [forest.positions[node] for node in path] == list(range(len(sequence)))
        for depth, node in enumerate(path):
            assert [other for other in range(node + 1) if forest.ends[other] > node] == path[: depth + 1]


@given(sequences)
def test_sorted_sequences_share_all_that_they_have_in_common(made: list[list[int]]) -> None:
    prefixes = {tuple(sequence[:length]) for sequence in made for length in range(1, len(sequence) + 1)}
    assert len(grow(sorted(made)).tokens) == len(prefixes)


@given(sequences)
def test_a_forest_is_a_chain_exactly_when_every_node_sees_all_before_it(made: list[list[int]]) -> None:
    forest = grow(made)
    assert forest.is_chain == all(end == len(forest.tokens) for end in forest.ends)


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_a_common_prefix_is_common_and_the_longest(one: list[int], other: list[int]) -> None:
    length = common_prefix(one, other)
    assert one[:length] == other[:length]
    assert len(one) == length or len(other) == length or one[length] != other[length]


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=200), min_size=1, max_size=6))
def test_blocks_show_each_query_its_ancestors_and_itself_once(made: list[list[int]]) -> None:
    forest = grow(sorted(made))
    blocks = cut_blocks(forest)
    size = blocks.bias.shape[-2]
    for node in range(len(forest.tokens)):
        seen = blocks.bias[node // size, 0, 0, node % size] == 0
        keys = blocks.padded[node // size][seen].tolist()
        assert sorted(keys) == [other for other in range(node + 1) if forest.ends[other] > node]
