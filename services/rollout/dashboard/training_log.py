"""A training step by step, as the trainer writes it beside its checkpoints (`train.jsonl`), as charts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import orjson

from services.rollout.chart import Chart, Series, pad
from shared.schema import Schema
from shared.status import JobStatus


class TrainedStep(Schema, extra="ignore"):
    """One line of `train.jsonl`, as far as it is drawn."""

    grad_norm: float
    """Before clipping."""
    nll: float
    """Mean -log p of the supervised tokens, whatever their weight."""
    tokens_per_s: float


_CURVES: Mapping[str, tuple[str, Callable[[TrainedStep], float]]] = {
    "grad-norm": ("Gradient norm, before clipping", lambda step: step.grad_norm),
    "nll": ("Mean −log p of supervised tokens", lambda step: step.nll),
    "trained-tokens": ("Trained tokens a second", lambda step: step.tokens_per_s),
}


def read_steps(runs_root: Path, status: JobStatus) -> dict[int, list[TrainedStep]]:
    """The steps so far of every stage that has any; a line that is being written is left for the next look."""
    found: dict[int, list[TrainedStep]] = {}
    for training in status.trainings:
        path = runs_root / status.id / "checkpoints" / f"stage-{training.stage}" / "train.jsonl"
        if path.is_file():
            whole, _, _ = path.read_bytes().rpartition(b"\n")
            found[training.stage] = [TrainedStep.model_validate(orjson.loads(line)) for line in whole.splitlines()]
    return {stage: steps for stage, steps in found.items() if steps}


def draw_steps(trained: Mapping[int, Sequence[TrainedStep]]) -> list[Chart]:
    """A chart a measure, a line a stage."""
    if not trained:
        return []
    most = max(map(len, trained.values()))
    return [
        Chart(
            key=key,
            title=title,
            x=[float(step) for step in range(1, most + 1)],
            x_label="step",
            series=[
                Series(label=f"stage {stage}", values=pad([measure(step) for step in steps], most))
                for stage, steps in trained.items()
            ],
        )
        for key, (title, measure) in _CURVES.items()
    ]
