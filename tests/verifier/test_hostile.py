"""Hostile inputs: the server's own tiers end in few steps whatever they are given, and never call them correct."""

import pytest

from bench.hostile import hostile_items
from services.verifier.grading.region import MAX_REGION, answer_region
from services.verifier.grading.tiers import Decision, Deferred, decide, decide_math, extract
from services.verifier.metrics import Metrics
from services.verifier.pool import Expired
from services.verifier.service import Verifier
from services.verifier.settings import VerifierSettings
from shared.grading import Verdict, VerifyItem

ITEMS = hostile_items()


def test_there_are_many_of_many_kinds() -> None:
    assert len(ITEMS) >= 90


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_a_hostile_item_is_decided_or_left_to_a_worker_and_never_correct(item: VerifyItem) -> None:
    for kind in ("math", "choice"):
        hostile = item.model_copy(update={"kind": kind})
        decision = decide(hostile, extract(hostile))
        assert not isinstance(decision, Decision) or decision.verdict != Verdict.CORRECT
    assert len(answer_region(item.response)) <= MAX_REGION


@pytest.mark.parametrize(
    "answer",
    ["{" * 40 + "Option", "{" * 25 + "x|x}" * 25, "C(" * 25 + "x" + ")" * 25, r"1\frac{" * 25 + "1" + "}{x}" * 25],
)
def test_what_would_be_read_twice_at_each_level_is_left_to_a_worker(answer: str) -> None:
    decision = decide_math(("x^2 + 1",), answer)
    assert isinstance(decision, Deferred) and decision.heavy


class StarvedPool:
    """A pool whose every task meets its deadline after the given processor time."""

    alive = True

    def __init__(self, computed: float) -> None:
        self.computed = computed
        self.tasks = 0

    async def run(self, task: object, deadline: float, *, heavy: bool = False) -> Expired:
        self.tasks += 1
        return Expired(self.computed)


ENDLESS = VerifyItem(
    id="1",
    response=r"\boxed{3\int \sin(x)^{\cos x} \ln(\tan x) dx}",
    answer=r"2\int \cos(x)^{\sin x} dx",
    deadline_ms=500,
)


async def test_a_timeout_holds_for_deadlines_up_to_its_own() -> None:
    pool = StarvedPool(computed=0.49)
    verifier = Verifier(VerifierSettings(), pool, Metrics())  # pyright: ignore[reportArgumentType]
    first, second = (await verifier.verify([ENDLESS]))[0], (await verifier.verify([ENDLESS]))[0]
    assert (first.verdict, first.cached, second.verdict, second.cached) == ("timeout", False, "timeout", True)
    assert pool.tasks == 1
    await verifier.verify([ENDLESS.model_copy(update={"deadline_ms": 501})])
    assert pool.tasks == 2


async def test_a_timeout_of_a_starved_worker_says_nothing() -> None:
    pool = StarvedPool(computed=0.1)
    verifier = Verifier(VerifierSettings(), pool, Metrics())  # pyright: ignore[reportArgumentType]
    for _ in range(2):
        await verifier.verify([ENDLESS])
    assert pool.tasks == 2
