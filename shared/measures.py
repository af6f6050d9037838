"""What a job has measured: evaluations of policies, and sums over rollouts."""

from shared.schema import Schema


class Correction(Schema):
    """What greedy episodes over one set of problems show of trying again, whoever played them (paper 5.1)."""

    multi_at: list[float]
    """multi@k for k = 1..max_turns: share of problems solved within k turns."""
    interval: list[list[float]]
    """95 % bootstrap interval [low, high] of each multi@k."""
    correction_rate: float
    """Share of the problems wrong at turn 1 that a later turn solves."""
    correction_rate_at: list[float]
    """By turn: newly correct at t / wrong after t-1; the first is multi@1."""
    solved_rate_at: list[float]
    """By turn: solved by t / solved by the last turn."""
    unique_answers: float
    """Mean over problems with a parsed answer of distinct answers / answers (U/A)."""
    distinct_answers: float
    """Mean number of distinct answers, over all problems."""
    distinct_answers_wrong: float
    """The same over the problems never solved (paper table 6)."""


class Evaluation(Correction):
    """Greedy episodes of one policy on one dataset (paper 5.1, 5.4, D.8)."""

    dataset: str
    policy: str
    stage: int
    n: int
    """Problems counted."""
    ungraded: int
    """Problems left out, since the verifier or the engine failed on them."""
    unparsable: float
    """Share of turns without a parsed answer."""
    correction_interval: list[float] = [0.0, 1.0]
    """95 % bootstrap interval [low, high] of `correction_rate`; what a study recorded without it knows nothing."""
    solved_interval_at: list[list[float]] = []
    """The same of each `solved_rate_at`."""


class Composition(Schema):
    """Groups of a rollout by outcome (paper D.9)."""

    complete: int = 0
    all_correct: int = 0
    all_wrong: int = 0
    mixed: int = 0
    spoiled: int = 0
    """Groups with an ungraded or failed trajectory; they carry no weights."""

    def __add__(self, other: "Composition") -> "Composition":
        """Of both, which share no group."""
        return Composition(
            complete=self.complete + other.complete,
            all_correct=self.all_correct + other.all_correct,
            all_wrong=self.all_wrong + other.all_wrong,
            mixed=self.mixed + other.mixed,
            spoiled=self.spoiled + other.spoiled,
        )


class RolloutSummary(Schema):
    """Sums over one stage's rollouts."""

    stage: int
    policy: str
    trajectories: int
    ungraded: int
    failed: int
    multi_at: list[float]
    turns: int
    generated_tokens: int
    verdicts: dict[str, int]
    seconds: float
    composition: Composition = Composition()
