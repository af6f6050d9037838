"""One rank's part of a training: holds the model and the optimiser, and carries out rank 0's orders."""

import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel

from services.trainer import checkpoint
from services.trainer.compiled import compile_layers
from services.trainer.export import export
from services.trainer.loss import SupervisedModel, weighted
from services.trainer.memory import choose_sharding
from services.trainer.model import build_model, choose_dtype, computing_in, free_gathered, load_weights, sync_gradients
from services.trainer.orders import Begin, Dtype, Export, Measure, Step
from services.trainer.ranks import Ranks
from shared.errors import DriftError
from shared.training import TrainingTask, TrainSpec

T = TypeVar("T")


class TrainingError(DriftError):
    """A training cannot go on; all ranks raise it together."""


@dataclass(frozen=True)
class StepResult:
    """What one step did, the same on every rank."""

    loss: float
    nll: float
    """Mean -log p of the supervised tokens, whatever their weight."""
    grad_norm: float
    tokens: int
    """Trained tokens, context and response, padding not counted."""
    seconds: float
    suspects: list[str]
    """Trajectories whose own loss is not finite, or if none is, the batch's five largest; empty for a good step."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Executor:
    """The state of one training on one rank. Methods are collective: all ranks call them in the same order."""

    def __init__(self, ranks: Ranks, begin: Begin) -> None:
        """Load, shard and restore; raises `TrainingError` on every rank where one of them fails."""
        self._ranks = ranks
        self._task: TrainingTask = begin.task
        self.model: PreTrainedModel = self._in_unison(
            f"model {self._task.model!r}",
            lambda: self._load(begin.micro_batch_tokens),
            "Name a folder or a hub model with safetensors weights that transformers knows.",
        )
        self._supervised = SupervisedModel(self.model, ranks.device)
        free_gathered(self.model)
        self.packs = self._supervised.packs
        """Whether this model's micro-batches are computed as forests."""
        spec: TrainSpec = begin.task.train
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=spec.learning_rate,
            weight_decay=spec.weight_decay,
            fused=True,
        )
        self._keeps_gradients = ranks.device.type == "cpu"
        self._allocate()
        self.dtype: Dtype = begin.dtype or choose_dtype(self._supervised, ranks)
        if begin.compile:
            self._in_unison(
                "compiled model", lambda: compile_layers(self.model), "Install one, or leave DRIFT_TRAINER_COMPILE out."
            )
        if begin.checkpoint:
            folder = Path(begin.checkpoint)
            self._in_unison(
                f"checkpoint {str(folder)!r}",
                lambda: checkpoint.load(folder, self.model, self.optimizer),
                "Remove it: the training then goes on from the one before.",
            )

    def step(self, order: Step) -> StepResult:
        """Forward, backward and, if loss and gradient norm are good, the optimiser's step (paper eqs. 14, 15)."""
        began = time.perf_counter()
        spec = self._task.train
        torch.manual_seed(random.Random(f"{spec.seed}:{order.step}:{self._ranks.rank}").getrandbits(63))
        losses = self._ranks.sum(self.backward(order))
        loss = float(losses.sum())
        norm = clip_grad_norm_(self.model.parameters(), spec.max_grad_norm)
        grad_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        suspects: list[str] = []
        if math.isfinite(loss) and grad_norm <= (order.norm_limit or sys.float_info.max):
            for group in self.optimizer.param_groups:
                group["lr"] = order.learning_rate
            self.optimizer.step()
        else:
            suspects = _name_suspects(order, losses)
        self.optimizer.zero_grad(set_to_none=not self._keeps_gradients)
        tokens = sum(len(example.tokens) for share in order.shares for micro in share for example in micro)
        return StepResult(loss, _mean_nll(order, losses), grad_norm, tokens, time.perf_counter() - began, suspects)

    def export(self, order: Export) -> None:
        """Write the Hugging Face folder."""
        export(self.model, self._task, Path(order.folder), order.card, self._ranks)

    def backward(self, order: Step) -> Tensor:
        """Gradients of this rank's share; returns each example's part of the loss, float64, zero for other ranks'."""
        count = sum(len(micro) for share in order.shares for micro in share)
        losses = torch.zeros(count, dtype=torch.float64)
        place = sum(len(micro) for share in order.shares[: self._ranks.rank] for micro in share)
        micro_batches = order.shares[self._ranks.rank]
        with computing_in(self.model, self.dtype):
            for number, micro in enumerate(micro_batches, 1):
                sync_gradients(self.model, number == len(micro_batches), self._sharding)
                nll = self._supervised.sum_nll(micro)
                weighted(nll, micro).backward()
                coefficients = torch.tensor([example.coefficient for example in micro], dtype=torch.float64)
                losses[place : place + len(micro)] = nll.detach()[: len(micro)].double().cpu() * coefficients
                place += len(micro)
        return losses

    def _load(self, micro_batch_tokens: int) -> PreTrainedModel:
        model = build_model(self._task.model, self._task.train.lora)
        self._sharding = choose_sharding(model, self._ranks, micro_batch_tokens)
        return load_weights(model, self._task.model, self._task.train, self._ranks, self._sharding)

    @torch.no_grad()
    def measure(self, order: Measure) -> float:
        """The weighted loss of sequences that are not trained on."""
        self.model.eval()
        total = torch.zeros(1, dtype=torch.float64)
        with computing_in(self.model, self.dtype):
            for micro in order.shares[self._ranks.rank]:
                nll = self._supervised.sum_nll(micro)
                total += weighted(nll, micro).double().cpu()
        free_gathered(self.model)
        self.model.train()
        return float(self._ranks.sum(total))

    def _allocate(self) -> None:
        """What stays is allocated before what comes and goes: on a CPU, gradients and moments made during the first
        step lie scattered among its activations, whose memory can then never be given back or used as a whole."""
        checkpoint.make_moments(self.optimizer)
        if self._keeps_gradients:
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)

    def _in_unison(self, what: str, act: Callable[[], T], remedy: str) -> T:
        result: T | None = None
        fault = ""
        try:
            result = act()
        except (Exception, CheckpointException) as error:  # noqa: BLE001 - a folder may hold anything; it is reported
            fault = f"{type(error).__name__}: {error}"
        if faults := {fault for fault in self._ranks.collect(fault) if fault}:
            raise TrainingError(f"Could not load the {what}: {'; '.join(sorted(faults))}", remedy=remedy)
        return cast(T, result)


def _mean_nll(order: Step, losses: Tensor) -> float:
    """From each example's part of the loss; one whose weight is lost to rounding does not count."""
    examples = [example for share in order.shares for micro in share for example in micro]
    parts = [
        (loss / one.coefficient, one) for loss, one in zip(losses.tolist(), examples, strict=True) if one.coefficient
    ]
    tokens = sum(stop - start for _, one in parts for start, stop in one.spans)
    return math.fsum(nll for nll, _ in parts) / max(1, tokens)


def _name_suspects(order: Step, losses: Tensor) -> list[str]:
    ids = [example.trajectory for share in order.shares for micro in share for example in micro]
    bad = [id for id, loss in zip(ids, losses.tolist(), strict=True) if not math.isfinite(loss)]
    if bad:
        return bad
    return [ids[place] for place in losses.argsort(descending=True)[:5].tolist()]
