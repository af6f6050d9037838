"""Sequences laid out as a forest, so that what several of them begin with is computed once. Pure.

Siblings share their problem's prompt, and all prompts share the template's head. A forest's nodes are tokens in
preorder, one row without padding. What a token may see are its ancestors: node j is one of i's exactly when
j <= i < ends[j]. Sequences with nothing in common are trees of their own, hence packing without sharing is the same
thing, and no sequence ever sees another's tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Forest:
    """Sequences in one row."""

    tokens: list[int]
    """Token of each node, shape [nodes]."""
    positions: list[int]
    """Its place in its sequence, from 0; also the number of its ancestors."""
    ends: list[int]
    """Where its subtree ends: the first node behind that is no descendant."""
    paths: list[list[int]]
    """For each sequence the node of each of its tokens."""

    @property
    def is_chain(self) -> bool:
        """Whether every node sees all before it, so that plain causal attention is right."""
        return len(self.tokens) == self.positions[-1] + 1


def grow(sequences: Sequence[Sequence[int]]) -> Forest:
    """The forest of at least one sequence, none empty.

    Each shares what it has in common with its predecessor: in lexicographic order that is all there is to share.
    """
    tokens: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    paths: list[list[int]] = []
    path: list[int] = []
    previous: Sequence[int] = ()
    for sequence in sequences:
        shared = common_prefix(previous, sequence)
        for node in path[shared:]:
            ends[node] = len(tokens)
        path = path[:shared] + list(range(len(tokens), len(tokens) + len(sequence) - shared))
        tokens += sequence[shared:]
        positions += range(shared, len(sequence))
        ends += [0] * (len(sequence) - shared)
        paths.append(path)
        previous = sequence
    for node in path:
        ends[node] = len(tokens)
    # A sequence that its successor merely prolongs has ended only where the successor has.
    return Forest(tokens, positions, ends, paths)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    length = min(len(one), len(other))
    return next((place for place in range(length) if one[place] != other[place]), length)
