"""What a training learns from: the objective's population over a dataset's complete groups. Pure and deterministic.

The weights follow the objective (paper eqs. 10, 13; the baselines of D.1), normalised over complete groups only. A
group is held out by a hash of its problem's id alone: it is the same one in every training, stage and job, and no
step ever sees it.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from shared.errors import SpecError
from shared.job import Composition, Objective, TrainSpec
from shared.returns import ReturnSpec, effective_sample_size, score_trajectory, weigh
from shared.schema import Schema
from shared.trajectory import Trajectory, Turn


class Example(Schema):
    """One sequence to train on, with its share of the loss."""

    trajectory: str
    """The trajectory's id."""
    tokens: list[int]
    spans: list[tuple[int, int]]
    """[start, stop) of the supervised tokens in `tokens`; start >= 1, since something must predict the first."""
    coefficient: float
    """What each supervised token's -log p is multiplied by: w_i / |y_i|, in a batch also divided by |B|."""

    def times(self, factor: float) -> "Example":
        """The same sequence with another share of the loss."""
        return self.model_copy(update={"coefficient": self.coefficient * factor})


@dataclass(frozen=True)
class Member:
    """One trajectory of the population."""

    weight: float
    examples: tuple[Example, ...]
    """Its sequences with coefficients w / |y|; none where it is skipped or does not fit."""


@dataclass(frozen=True)
class Population:
    """The trajectories that a training learns from, in the dataset's order, and what was left out."""

    members: list[Member]
    held_out: list[Member]
    """Members of held-out groups, weighted likewise."""
    held_out_groups: int
    composition: Composition
    effective_sample_size: float
    """Mean over the groups that are trained on."""
    skipped: int
    skipped_mass: float
    """Share of all weight; see `choose_skipped` for what it bounds."""
    skipped_token_share: float
    truncated: int
    too_long: int


def make_population(trajectories: Iterable[Trajectory], returns: ReturnSpec, train: TrainSpec) -> Population:
    """Weigh a dataset's complete groups; raises `SpecError` when no trajectory may carry weight."""
    groups: dict[int, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        groups[trajectory.group].append(trajectory)
    kinds = Counter[str]()
    sizes: list[float] = []
    weighted: list[tuple[Trajectory, float, bool]] = []
    held_out: list[tuple[Trajectory, float, bool]] = []
    for index in sorted(groups):
        group = sorted(groups[index], key=lambda trajectory: trajectory.k)
        kind = _classify(group)
        kinds[kind] += 1
        if kind == "spoiled" or (kind == "all_wrong" and train.all_wrong == "drop"):
            continue
        weights = assign_weights(group, train.objective, returns)
        if not weights:
            continue
        skipped = choose_skipped(list(weights.values()), train.epsilon) if _may_skip(train) else set[int]()
        rows = [(group[k], weight, place in skipped) for place, (k, weight) in enumerate(weights.items())]
        if is_held_out(group[0].problem.id, train.held_out):
            held_out += rows
        else:
            weighted += rows
            sizes.append(effective_sample_size(list(weights.values())))
    if not weighted:
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no groups"
        raise SpecError(
            f"No trajectory carries weight under objective {train.objective!r}: {counted}"
            + (f"; {len({one.group for one, *_ in held_out})} groups are held out." if held_out else "."),
            remedy="Choose another objective, or roll out problems that the model can solve.",
        )
    if train.held_out and not held_out:
        raise SpecError(
            f"`held_out` {train.held_out} holds out none of {len(groups)} groups.",
            remedy="Give a larger share, or 0 to train on all of them.",
        )
    cuts = [cut_examples(one, weight, train.objective, train.max_length) for one, weight, _ in weighted]
    lengths = [sum(len(example.tokens) for example in cut.examples) for cut in cuts]
    skips = [skip for *_, skip in weighted]
    mass = math.fsum(weight for _, weight, _ in weighted)
    return Population(
        members=[
            Member(weight, () if skip else cut.examples) for cut, (_, weight, skip) in zip(cuts, weighted, strict=True)
        ],
        held_out=[
            Member(weight, () if skip else cut_examples(one, weight, train.objective, train.max_length).examples)
            for one, weight, skip in held_out
        ],
        held_out_groups=len({one.group for one, *_ in held_out}),
        composition=Composition(
            complete=kinds["all_correct"] + kinds["all_wrong"] + kinds["mixed"],
            all_correct=kinds["all_correct"],
            all_wrong=kinds["all_wrong"],
            mixed=kinds["mixed"],
            spoiled=kinds["spoiled"],
        ),
        effective_sample_size=math.fsum(sizes) / len(sizes),
        skipped=sum(skips),
        skipped_mass=math.fsum(weight for _, weight, skip in weighted if skip) / mass,
        skipped_token_share=sum(length for length, skip in zip(lengths, skips, strict=True) if skip)
        / max(1, sum(lengths)),
        truncated=sum(cut.truncated and not skip for cut, skip in zip(cuts, skips, strict=True)),
        too_long=sum(cut.too_long and not skip for cut, skip in zip(cuts, skips, strict=True)),
    )


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
    """The lightest members of one group whose weights together are less than `epsilon` of the group's.

    What this does to the gradient: with g_i the gradient of trajectory i's mean -log p and |g_i| <= G, an epoch's
    gradient is g = (1/N) sum_i w_i g_i. Without the skipped set S it is off by

        |(1/N) sum_{i in S} w_i g_i|  <=  G (1/N) sum_{i in S} w_i  =  G m  <  G epsilon,

    since the N weights have mean 1, so that their skipped share is m = (1/N) sum_{i in S} w_i.
    """
    limit = epsilon * math.fsum(weights)
    skipped: set[int] = set()
    mass = 0.0
    for place in sorted(range(len(weights)), key=lambda place: weights[place]):
        mass += weights[place]
        if mass >= limit:
            break
        skipped.add(place)
    return skipped


def resample(weights: Sequence[float], offset: float) -> list[int]:
    """Systematic resampling: as many draws as there are weights; for a uniform `offset` in [0, 1) without bias.

    Index i is drawn floor or ceil of w_i / mean(w) times, in expectation exactly that, so that drawn trajectories of
    weight 1 have the weighted loss as their expectation. Neighbours balance each other: over any run of whole
    groups the number of draws is off by less than one.
    """
    sums = [0.0, *accumulate(weights)]
    ends = [mass / sums[-1] * len(weights) for mass in sums]
    return [
        index
        for index, (begin, end) in enumerate(pairwise(ends))
        for _ in range(math.ceil(begin - offset), math.ceil(end - offset))
    ]


def is_held_out(problem: str, share: float) -> bool:
    """Whether a problem's group belongs to the held-out `share`: a hash of its id decides, nothing else does."""
    digest = hashlib.sha256(problem.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


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


def _classify(group: Sequence[Trajectory]) -> str:
    if not all(trajectory.usable for trajectory in group):
        return "spoiled"
    solved = sum(trajectory.success for trajectory in group)
    return "all_correct" if solved == len(group) else "mixed" if solved else "all_wrong"


def _may_skip(train: TrainSpec) -> bool:
    return train.objective in ("drift", "all_turns") and train.weighting == "loss"
