"""Micro-batches of equal cost: how a batch is divided among ranks and forward passes. Pure and deterministic.

Every rank gets the same number of micro-batches and about the same amount of work, siblings stay together, and no
division changes the loss.
"""

import math
from collections.abc import Sequence

from services.trainer.forest import common_prefix
from services.trainer.population import Example

_PASS_COST = 64
"""Fixed cost of one forward and backward pass, in tokens of computation; measured on a CPU, not critical."""

_ATTENTION_LENGTH = 8192
"""Context at which a token's attention costs as much as its matrix products: 3,000 for a model of 135 million
weights, 30,000 for one of 7 billion; not critical."""

MicroBatch = list[Example]
"""Sequences of one forward pass; empty where a rank has nothing to do while others have."""


def split_batch(
    batch: Sequence[Example], ranks: int, micro_batch_tokens: int, packed: bool = True
) -> list[list[MicroBatch]]:
    """Micro-batches for each rank, shape [ranks][n]: the same n, at least 1, for all, and about equal cost.

    A micro-batch holds at most `micro_batch_tokens`, or one longer sequence alone. Where it is `packed` it is computed
    as a forest, and what sequences share counts once; else each is a row, and the padding counts.
    """
    runs = _cut_forests(batch, ranks, micro_batch_tokens) if packed else _cut_rows(batch, micro_batch_tokens)
    count = max(1, math.ceil(len(runs) / ranks))
    while len(runs) < ranks * count:
        largest = max(range(len(runs)), key=lambda place: len(runs[place]), default=None)
        if largest is None or len(runs[largest]) < 2:
            runs.append([])
        else:
            half = len(runs[largest]) // 2
            runs[largest : largest + 1] = [runs[largest][:half], runs[largest][half:]]
    costs = {id(run): _cost_of_forest(run) if packed else _cost_of_rows(run) for run in runs}
    split: list[list[MicroBatch]] = [[] for _ in range(ranks)]
    for run in sorted(runs, key=lambda run: -costs[id(run)]):
        free = (share for share in split if len(share) < count)
        min(free, key=lambda share: sum(costs[id(one)] for one in share)).append(run)
    return split


def _cut_forests(examples: Sequence[Example], ranks: int, micro_batch_tokens: int) -> list[MicroBatch]:
    """As few micro-batches as the budget allows, a multiple of `ranks` where possible, the dearest as cheap as can be.

    In lexicographic order siblings are neighbours, and each sequence shares most with the one before.
    """
    ordered = sorted(examples, key=lambda example: example.tokens)
    pairs = zip([(), *(example.tokens for example in ordered)], ordered, strict=False)
    shared = [common_prefix(before, example.tokens) for before, example in pairs]

    def cut(limit: float) -> list[MicroBatch]:
        runs: list[MicroBatch] = []
        nodes = cost = 0.0
        for example, common in zip(ordered, shared, strict=True):
            more = _cost_of_nodes(common, len(example.tokens))
            if runs and nodes + len(example.tokens) - common <= micro_batch_tokens and cost + more <= limit:
                runs[-1].append(example)
                nodes += len(example.tokens) - common
                cost += more
            else:
                runs.append([example])
                nodes, cost = len(example.tokens), _cost_of_nodes(0, len(example.tokens))
        return runs

    fewest = cut(math.inf)
    allowed = math.ceil(len(fewest) / ranks) * ranks
    low, high = 0.0, sum(_cost_of_nodes(0, len(example.tokens)) for example in ordered)
    while high - low > 1:
        middle = (low + high) / 2
        low, high = (low, middle) if len(cut(middle)) <= allowed else (middle, high)
    return cut(high)


def _cost_of_nodes(shared: int, length: int) -> float:
    """What a sequence adds to a forest that has its first tokens already, in tokens of computation."""
    return length - shared + (length**2 - shared**2) / 2 / _ATTENTION_LENGTH


def _cost_of_forest(run: MicroBatch) -> float:
    before = [(), *(example.tokens for example in run)]
    return sum(
        _cost_of_nodes(common_prefix(previous, example.tokens), len(example.tokens))
        for previous, example in zip(before, run, strict=False)
    )


def _cost_of_rows(run: MicroBatch) -> float:
    return len(run) * max((_cost_of_nodes(0, len(example.tokens)) for example in run), default=0.0)


def _cut_rows(examples: Sequence[Example], micro_batch_tokens: int) -> list[MicroBatch]:
    """Cut the examples, longest first, where padding and the fixed cost of a pass are least together.

    The first sequence of a micro-batch sets the padded length of its rows.
    """
    ordered = sorted(examples, key=lambda example: -len(example.tokens))
    cheapest = [0.0]
    begins = [0]
    for stop in range(1, len(ordered) + 1):
        costs: list[tuple[float, int]] = []
        for begin in range(stop - 1, -1, -1):
            padded = len(ordered[begin].tokens) * (stop - begin)
            if padded > micro_batch_tokens and begin < stop - 1:
                break
            costs.append((cheapest[begin] + padded + _PASS_COST, begin))
        cost, begin = min(costs)
        cheapest.append(cost)
        begins.append(begin)
    runs: list[MicroBatch] = []
    stop = len(ordered)
    while stop:
        runs.append(ordered[begins[stop] : stop])
        stop = begins[stop]
    return runs[::-1]
