"""The gradients that proposition 6 compares, their means and their variances; `bench.analysis` says what is told.

No group's gradient is kept, only its inner products with itself and the sum over each block of groups.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.jackknife import BLOCKS, Figure, jackknife
from services.trainer.loss import SupervisedModel
from services.trainer.population import Example, assign_weights
from shared.returns import ReturnSpec
from shared.trajectory import Trajectory

ESTIMATORS = ("terminal", "all_turns", "full_trajectory", "uniform")
BATCH = 128
"""Trajectories of a batch, as in the paper."""
STRETCH = 1 << 20
"""Numbers of a float32 inner product that are added up before float64 takes over."""


@dataclass(frozen=True)
class Moments:
    """All that the figures need of the groups' gradients g, in float64."""

    counts: Tensor
    """Groups of each block, shape [blocks]."""
    between: Tensor
    """Inner products of the blocks' sums of g, shape [blocks, estimators, blocks, estimators]."""
    within: Tensor
    """Each block's sum of one group's inner products <g_a, g_b>, shape [blocks, estimators, estimators]."""


def compare_turns(
    base: PreTrainedModel, groups: Sequence[Sequence[Trajectory]], returns: ReturnSpec
) -> dict[str, dict[str, Figure]]:
    """Terminal-only against the others. From here on the model's output layer gives -log p."""
    model = SupervisedModel(base, torch.device("cpu"))
    gradients = torch.empty(len(ESTIMATORS), base.num_parameters())
    moments = gather((differentiate(model, group, returns, gradients) for group in groups), base.num_parameters())
    batch_groups = BATCH / len(groups[0])
    return {
        other: jackknife(lambda kept, other=other: compare(moments, kept, other, batch_groups))
        for other in ESTIMATORS[1:]
    }


def split_group(group: Sequence[Trajectory], returns: ReturnSpec) -> tuple[list[Example], Tensor]:
    """Each response of a group in its recorded context, and what each estimator multiplies its tokens' -log p by.

    Shape of the latter: [estimators, responses]. In lexicographic order, so that contexts are shared.
    """
    weights = assign_weights(group, "drift", returns)
    rows: list[tuple[Example, tuple[float, ...]]] = []
    for place, one in enumerate(group):
        share = weights[place] / len(group)
        tokens = sum(len(turn.token_ids) for turn in one.turns)
        for turn in one.turns:
            if not turn.token_ids:
                continue
            start, count = len(turn.prompt_token_ids), len(turn.token_ids)
            sequence = turn.prompt_token_ids + turn.token_ids
            example = Example(trajectory=one.id, tokens=sequence, spans=[(start, start + count)], coefficient=1.0)
            last = float(turn is one.turns[-1])
            rows.append((example, (last * share / count, share / tokens, share / count, last / count / len(group))))
    rows.sort(key=lambda row: row[0].tokens)
    return [example for example, _ in rows], torch.tensor([row for _, row in rows]).T


def differentiate(
    model: SupervisedModel, group: Sequence[Trajectory], returns: ReturnSpec, gradients: Tensor
) -> Tensor:
    """Each estimator's gradient of one group's mean loss, shape [estimators, weights], written into `gradients`."""
    examples, coefficients = split_group(group, returns)
    nll = model.sum_nll(examples)
    weights = list(model.model.parameters())
    for gradient, row in zip(gradients, coefficients, strict=True):
        loss = (row * nll).sum()
        torch.cat([one.flatten() for one in torch.autograd.grad(loss, weights, retain_graph=True)], out=gradient)
    return gradients


def gather(gradients: Iterable[Tensor], weights: int) -> Moments:
    """Group i, [estimators, weights], belongs to block i modulo the number of blocks; all may be the same memory."""
    sums = torch.zeros(BLOCKS, len(ESTIMATORS), weights)
    within = torch.zeros(BLOCKS, len(ESTIMATORS), len(ESTIMATORS), dtype=torch.float64)
    counts = torch.zeros(BLOCKS, dtype=torch.float64)
    for place, gradient in enumerate(gradients):
        block = place % BLOCKS
        sums[block] += gradient
        within[block] += multiply(gradient)
        counts[block] += 1
    between = multiply(sums.flatten(0, 1)).view(BLOCKS, len(ESTIMATORS), BLOCKS, len(ESTIMATORS))
    return Moments(counts, between, within)


def multiply(rows: Tensor) -> Tensor:
    """Inner products of all rows with each other, float64."""
    return torch.stack([part @ part.T for part in rows.split(STRETCH, 1)]).double().sum(0)


def compare(moments: Moments, kept: Sequence[int], other: str, batch_groups: float) -> dict[str, float]:
    """Terminal-only against another estimator, from the blocks `kept`; NaN where noise leaves a norm undefined."""
    blocks = torch.tensor(list(kept))
    groups = float(moments.counts[blocks].sum())
    total = moments.between[blocks][:, :, blocks].sum((0, 2))
    own = moments.within[blocks].sum(0)
    expected = (total - own) / (groups * (groups - 1))  # <E g_a, E g_b>: the mean over pairs of different groups
    covariance = own / groups - expected
    pair = [0, ESTIMATORS.index(other)]
    (terminal, cross), (_, full) = expected[pair][:, pair].tolist()
    variance, variance_of_full = covariance.diagonal()[pair].tolist()
    bias_ratio = divide((terminal - 2 * cross + full) * batch_groups, variance_of_full)
    variance_ratio = divide(variance, variance_of_full)
    return {
        "batch_cosine": float(total[pair[0], pair[1]] / total.diagonal()[pair].prod().sqrt()),
        "expected_cosine": divide(cross, math.sqrt(max(terminal, 0) * max(full, 0))),
        "bias_ratio": bias_ratio,
        "variance_ratio": variance_ratio,
        "error_ratio": bias_ratio + variance_ratio,
    }


def divide(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
