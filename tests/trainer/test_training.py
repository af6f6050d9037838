"""Promises of one training's pure parts: the schedule, and what counts as an explosion."""

from services.trainer.training import limit_norm, schedule
from shared.training import TrainSpec


def test_the_learning_rate_warms_up_and_stays() -> None:
    spec = TrainSpec(steps=40, learning_rate=1.0, warmup_ratio=0.1)
    assert [schedule(step, 40, spec) for step in (1, 2, 4, 5, 40)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert schedule(1, 40, spec.model_copy(update={"warmup_ratio": 0.0})) == 1.0


def test_an_explosion_is_measured_against_what_is_usual_and_never_below_the_clipping_norm() -> None:
    spec = TrainSpec(max_grad_norm=1.0, explosion_factor=10.0)
    assert limit_norm([2.0] * 7, spec) is None, "too early to know what is usual"
    assert limit_norm([2.0] * 8, spec) == 20.0
    assert limit_norm([500.0] * 8 + [2.0] * 32, spec) == 20.0, "only the last 32 count"
    assert limit_norm([1e-3] * 8, spec) == 1.0, "what clipping would not touch has not exploded"
    assert limit_norm([2.0] * 8, spec.model_copy(update={"explosion_factor": None})) is None
