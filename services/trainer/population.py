"""What a training learns from: the objective's population over a dataset's complete groups. Pure and deterministic.

The weights follow the objective (paper eqs. 10, 13; the baselines of D.1), normalised over complete groups only. A
group is held out by a hash of its problem's id alone: it is the same one in every training, stage and job, and no
step ever sees it.
"""

import hashlib
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from shared.errors import SpecError
from shared.measures import Composition
from shared.returns import ReturnSpec, effective_sample_size, score_trajectory, weigh
from shared.schema import Schema
from shared.training import Objective, TrainSpec
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


class Population:
    """The trajectories that a training learns from, and what was left out. It grows by whole groups."""

    def __init__(self, returns: ReturnSpec, train: TrainSpec) -> None:
        self.members: list[Member] = []
        self.held_out: list[Member] = []
        """Members of held-out groups, weighted likewise."""
        self.held_out_groups = 0
        self.skipped = self.truncated = self.too_long = 0
        """Of the members that are trained on."""
        self._returns = returns
        self._train = train
        self._kinds = Counter[str]()
        self._sample_sizes: list[float] = []
        self._skipped_weights: list[float] = []
        self._tokens = self._skipped_tokens = 0

    def add(self, group: Sequence[Trajectory]) -> None:
        """Weigh one complete group, and take those of it that belong to the objective's population."""
        train = self._train
        group = sorted(group, key=lambda trajectory: trajectory.k)
        kind = _classify(group)
        self._kinds[kind] += 1
        if kind == "spoiled" or (kind == "all_wrong" and train.all_wrong == "drop"):
            return
        weights = assign_weights(group, train.objective, self._returns)
        if not weights:
            return
        skipped = choose_skipped(list(weights.values()), train.epsilon) if train.skips else set[int]()
        held_out = is_held_out(group[0].problem.id, train.held_out)
        if held_out:
            self.held_out_groups += 1
        else:
            self._sample_sizes.append(effective_sample_size(list(weights.values())))
        for place, (k, weight) in enumerate(weights.items()):
            skip = place in skipped
            cut = cut_examples(group[k], weight, train.objective, train.max_length)
            member = Member(weight, () if skip else cut.examples)
            if held_out:
                self.held_out.append(member)
                continue
            self.members.append(member)
            length = sum(len(example.tokens) for example in cut.examples)
            self._tokens += length
            if skip:
                self.skipped += 1
                self._skipped_tokens += length
                self._skipped_weights.append(weight)
            self.truncated += cut.truncated and not skip
            self.too_long += cut.too_long and not skip

    def check(self) -> None:
        """Raises `SpecError` when no trajectory carries weight, none fits, or none is held out where some should be."""
        if not self.members:
            counted = ", ".join(f"{count} {kind}" for kind, count in sorted(self._kinds.items())) or "no groups"
            raise SpecError(
                f"No trajectory carries weight under objective {self._train.objective!r}: {counted}"
                + (f"; {self.held_out_groups} groups are held out." if self.held_out_groups else "."),
                remedy="Choose another objective, or roll out problems that the model can solve.",
            )
        if not any(member.examples for member in self.members):
            raise SpecError(
                f"None of the {len(self.members)} trajectories has a response that fits into "
                f"{self._train.max_length} tokens with its first prompt.",
                remedy="Raise `train.max_length`.",
            )
        if self._train.held_out and not self.held_out:
            raise SpecError(
                f"`held_out` {self._train.held_out} holds out none of {self._kinds.total()} groups.",
                remedy="Give a larger share, or 0 to train on all of them.",
            )

    @property
    def composition(self) -> Composition:
        return Composition(
            complete=self._kinds["all_correct"] + self._kinds["all_wrong"] + self._kinds["mixed"],
            all_correct=self._kinds["all_correct"],
            all_wrong=self._kinds["all_wrong"],
            mixed=self._kinds["mixed"],
            spoiled=self._kinds["spoiled"],
        )

    @property
    def effective_sample_size(self) -> float | None:
        """Mean over the groups that are trained on; None where there is none yet."""
        return math.fsum(self._sample_sizes) / len(self._sample_sizes) if self._sample_sizes else None

    @property
    def skipped_mass(self) -> float:
        """Share of all weight; see `choose_skipped` for what it bounds."""
        return math.fsum(self._skipped_weights) / (math.fsum(member.weight for member in self.members) or 1.0)

    @property
    def skipped_token_share(self) -> float:
        return self._skipped_tokens / max(1, self._tokens)


def make_population(trajectories: Iterable[Trajectory], returns: ReturnSpec, train: TrainSpec) -> Population:
    """Weigh a dataset's complete groups; raises `SpecError` when no trajectory may carry weight.

    `trajectories` come in the order of their recording, which only a streamed training follows: any other takes the
    groups by number, so that it depends on what the dataset holds and not on when that came.
    """
    groups: dict[int, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        groups[trajectory.group].append(trajectory)
    population = Population(returns, train)
    for index in groups if train.streaming else sorted(groups):
        population.add(groups[index])
    population.check()
    return population


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
    last = math.nextafter(len(weights), 0.0)  # beyond which rounding must not take the last point
    return [bisect_right(ends, min(place + offset, last)) - 1 for place in range(len(weights))]


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
