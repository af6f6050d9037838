"""From trajectories to equal-cost micro-batches. Pure and deterministic: the same dataset and task give the same plan.

The weights follow the objective (paper eqs. 10, 13), normalised over complete groups only. Trajectories of
negligible weight are skipped but keep their place in the batches, so that |B| and the number of steps are
those of the full data. A batch is then split among ranks and micro-batches: every rank gets the same number
of micro-batches and about the same number of tokens, and no split changes the loss.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from shared.errors import SpecError
from shared.job import Composition, Objective, TrainSpec
from shared.returns import ReturnSpec, effective_sample_size, score_trajectory, weigh
from shared.schema import Schema
from shared.trajectory import Trajectory, Turn

DEFAULT_STEPS = 200
"""Optimiser steps when the task names neither steps nor epochs (paper D.2)."""

_PASS_COST = 64
"""Fixed cost of one forward and backward pass, in tokens of computation; measured on a CPU, not critical."""


class Example(Schema):
    """One sequence to train on, with its share of the loss."""

    trajectory: str
    """The trajectory's id."""
    tokens: list[int]
    spans: list[tuple[int, int]]
    """[start, stop) of the supervised tokens in `tokens`; start >= 1, since something must predict the first."""
    coefficient: float
    """What each supervised token's -log p is multiplied by: w_i / |y_i|, in a batch also divided by |B|."""


MicroBatch = list[Example]
"""Sequences of one forward pass; empty where a rank has nothing to do while others have."""


@dataclass
class Plan:
    """What a training consists of: the population in a fixed order, its examples, and what was left out."""

    examples: list[tuple[Example, ...]]
    """For each trajectory of the population its sequences; none where it is skipped or does not fit."""
    batch_size: int
    steps: int
    seed: int
    composition: Composition
    effective_sample_size: float
    skipped: int
    skipped_mass: float
    skipped_token_share: float
    truncated: int
    too_long: int
    _orders: dict[int, list[int]] = field(default_factory=dict[int, list[int]], repr=False)

    def batch(self, step: int) -> list[Example]:
        """The examples of one global batch (step counts from 0), coefficients divided by |B|.

        Epochs follow each other without a gap, each in its own seeded order, so that every batch counts
        exactly |B| trajectories; one that a small population brings twice counts twice.
        """
        size = len(self.examples)
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        drawn = Counter(self._order(place // size)[place % size] for place in places)
        return [
            example.model_copy(update={"coefficient": example.coefficient * times / self.batch_size})
            for index, times in drawn.items()
            for example in self.examples[index]
        ]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            order = list(range(len(self.examples)))
            random.Random(f"{self.seed}:{epoch}").shuffle(order)
            self._orders = {key: self._orders[key] for key in (epoch - 1,) if key in self._orders} | {epoch: order}
        return self._orders[epoch]


def make_plan(trajectories: Iterable[Trajectory], returns: ReturnSpec, train: TrainSpec) -> Plan:
    """Weigh a dataset's complete groups and lay out the training.

    Raises `SpecError` when no trajectory may carry weight.
    """
    groups: dict[int, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        groups[trajectory.group].append(trajectory)
    kinds = Counter[str]()
    sizes: list[float] = []
    weighted: list[tuple[Trajectory, float, bool]] = []
    for index in sorted(groups):
        group = sorted(groups[index], key=lambda trajectory: trajectory.k)
        kind = _classify(group)
        kinds[kind] += 1
        if kind == "spoiled" or (kind == "all_wrong" and train.all_wrong == "drop"):
            continue
        weights = assign_weights(group, train.objective, returns)
        skipped = choose_skipped(list(weights.values()), train.epsilon) if _is_tilted(train.objective) else set[int]()
        if weights:
            sizes.append(effective_sample_size(list(weights.values())))
        weighted += [(group[k], weight, place in skipped) for place, (k, weight) in enumerate(weights.items())]
    if not weighted:
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no groups"
        raise SpecError(
            f"No trajectory carries weight under objective {train.objective!r}: {counted}.",
            remedy="Choose another objective, or roll out problems that the model can solve.",
        )
    examples: list[tuple[Example, ...]] = []
    tokens = skipped_tokens = truncated = too_long = 0
    for trajectory, weight, skip in weighted:
        cut = cut_examples(trajectory, weight, train.objective, train.max_length)
        length = sum(len(example.tokens) for example in cut.examples)
        tokens += length
        skipped_tokens += length * skip
        truncated += cut.truncated and not skip
        too_long += cut.too_long and not skip
        examples.append(() if skip else cut.examples)
    mass = math.fsum(weight for _, weight, _ in weighted)
    return Plan(
        examples=examples,
        batch_size=train.batch_size,
        steps=count_steps(len(examples), train),
        seed=train.seed,
        composition=Composition(
            complete=kinds["all_correct"] + kinds["all_wrong"] + kinds["mixed"],
            all_correct=kinds["all_correct"],
            all_wrong=kinds["all_wrong"],
            mixed=kinds["mixed"],
            spoiled=kinds["spoiled"],
        ),
        effective_sample_size=math.fsum(sizes) / len(sizes),
        skipped=sum(skip for *_, skip in weighted),
        skipped_mass=math.fsum(weight for _, weight, skip in weighted if skip) / mass,
        skipped_token_share=skipped_tokens / tokens if tokens else 0.0,
        truncated=truncated,
        too_long=too_long,
    )


def count_steps(population: int, train: TrainSpec) -> int:
    """The optimiser steps of a training; a pass over the population is rounded up to whole steps."""
    if train.epochs is not None:
        return math.ceil(train.epochs * population / train.batch_size)
    return train.steps or DEFAULT_STEPS


def assign_weights(group: Sequence[Trajectory], objective: Objective, returns: ReturnSpec) -> dict[int, float]:
    """Weight of each member of one complete group that belongs to the objective's population, by its place."""
    match objective:
        case "drift" | "all_turns":
            values = [score_trajectory(trajectory, returns).value for trajectory in group]
            return dict(enumerate(weigh(values, returns.beta)))
        case "uniform":
            return dict.fromkeys(range(len(group)), 1.0)
        case "star":
            return {place: 1.0 for place, one in enumerate(group) if one.success and len(one.turns) == 2}
        case "single_turn":
            return {place: 1.0 for place, one in enumerate(group) if one.success and len(one.turns) == 1}


def choose_skipped(weights: Sequence[float], epsilon: float) -> set[int]:
    """The lightest members of one group whose weights together are less than `epsilon` of the group's."""
    limit = epsilon * math.fsum(weights)
    skipped: set[int] = set()
    mass = 0.0
    for place in sorted(range(len(weights)), key=lambda place: weights[place]):
        mass += weights[place]
        if mass >= limit:
            break
        skipped.add(place)
    return skipped


@dataclass(frozen=True)
class Cut:
    """What one trajectory gives to train on."""

    examples: tuple[Example, ...]
    truncated: bool = False
    """Whether a context lost its earliest turns."""
    too_long: bool = False
    """Whether a response did not fit even with all earlier turns gone; it is left out."""


def cut_examples(trajectory: Trajectory, weight: float, objective: Objective, max_length: int) -> Cut:
    """The sequences of one trajectory: its terminal response in context, or for `all_turns` every response.

    |y_i| counts all supervised tokens of the trajectory. Token ids are the engine's own. Responses whose
    tokens reappear unchanged in the next turn's context share one sequence.
    """
    turns = trajectory.turns
    wanted = range(len(turns)) if objective == "all_turns" else range(len(turns))[-1:]
    supervised = sum(len(turns[turn].token_ids) for turn in wanted)
    sequences: list[tuple[list[int], list[tuple[int, int]]]] = []
    truncated = too_long = False
    for index in wanted:
        turn = turns[index]
        if not turn.token_ids or not turn.prompt_token_ids:
            continue
        context = fit_context(turns[: index + 1], max_length - len(turn.token_ids))
        if context is None:
            too_long = True
            continue
        truncated |= len(context) < len(turn.prompt_token_ids)
        span = (len(context), len(context) + len(turn.token_ids))
        tokens = context + turn.token_ids
        if sequences and tokens[: len(sequences[-1][0])] == sequences[-1][0]:
            sequences[-1] = (tokens, [*sequences[-1][1], span])
        else:
            sequences.append((tokens, [span]))
    examples = tuple(
        Example(trajectory=trajectory.id, tokens=tokens, spans=spans, coefficient=weight / supervised)
        for tokens, spans in sequences
    )
    return Cut(examples, truncated, too_long)


def fit_context(turns: Sequence[Turn], room: int) -> list[int] | None:
    """The last turn's context within `room` tokens, or None where it cannot be.

    What is lost is whole earliest answers with their feedback; the first prompt (system and problem) stays. The
    cut is exact in ids: the first prompt, then what the last one adds to the prompt of a later turn. That
    holds where the later prompt is a prefix of the last one, as the turns of one conversation are.
    """
    last = turns[-1].prompt_token_ids
    if len(last) <= room:
        return list(last)
    first = turns[0].prompt_token_ids
    for turn in turns[1:]:
        prefix = turn.prompt_token_ids
        if last[: len(prefix)] == prefix and len(first) + len(last) - len(prefix) <= room:
            return [*first, *last[len(prefix) :]]
    return None


def split_batch(batch: Sequence[Example], ranks: int, micro_batch_tokens: int) -> list[list[MicroBatch]]:
    """Micro-batches for each rank, shape [ranks][n]: the same n, at least 1, for all, and balanced tokens.

    A micro-batch holds at most `micro_batch_tokens` with its padding, or one longer sequence alone.
    """
    shares: list[list[Example]] = [[] for _ in range(ranks)]
    for example in sorted(batch, key=lambda example: -len(example.tokens)):
        min(shares, key=lambda share: sum(len(one.tokens) for one in share)).append(example)
    split = [_fill(share, micro_batch_tokens) for share in shares]
    count = max(1, *map(len, split))
    for micro_batches in split:
        while len(micro_batches) < count:
            largest = max(range(len(micro_batches)), key=lambda place: len(micro_batches[place]), default=None)
            if largest is None or len(micro_batches[largest]) < 2:
                micro_batches.append([])
            else:
                whole = micro_batches[largest]
                half = len(whole) // 2
                micro_batches[largest : largest + 1] = [whole[:half], whole[half:]]
    return split


def _fill(examples: Sequence[Example], micro_batch_tokens: int) -> list[MicroBatch]:
    """Cut the examples, longest first, where padding and the fixed cost of a pass are least together.

    The first sequence of a micro-batch sets the padded length of its rows.
    """
    cheapest = [0.0]
    begins = [0]
    for stop in range(1, len(examples) + 1):
        costs: list[tuple[float, int]] = []
        for begin in range(stop - 1, -1, -1):
            padded = len(examples[begin].tokens) * (stop - begin)
            if padded > micro_batch_tokens and begin < stop - 1:
                break
            costs.append((cheapest[begin] + padded + _PASS_COST, begin))
        cost, begin = min(costs)
        cheapest.append(cost)
        begins.append(begin)
    filled: list[MicroBatch] = []
    stop = len(examples)
    while stop:
        filled.append(list(examples[begins[stop] : stop]))
        stop = begins[stop]
    return filled[::-1]


def _classify(group: Sequence[Trajectory]) -> str:
    if not all(trajectory.usable for trajectory in group):
        return "spoiled"
    solved = sum(trajectory.success for trajectory in group)
    return "all_correct" if solved == len(group) else "mixed" if solved else "all_wrong"


def _is_tilted(objective: Objective) -> bool:
    return objective in ("drift", "all_turns")
