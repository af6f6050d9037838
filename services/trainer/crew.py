"""The ranks at work on orders: rank 0 gives one, every rank obeys it, rank 0 included."""

from collections.abc import Iterable
from pathlib import Path

import torch

from services.trainer.checkpoint import Cursor, Saver
from services.trainer.executor import Executor, StepResult, TrainingError
from services.trainer.flops import FlopMeter
from services.trainer.orders import ORDER, Begin, Dtype, End, Export, Idle, Measure, Order, Quit, Save, Step
from services.trainer.population import Example
from services.trainer.ranks import Ranks
from services.trainer.settings import TrainerSettings
from shared.telemetry import get_logger

_log = get_logger(__name__)


class Crew:
    """This rank, its peers, and the training that they are at, if any."""

    def __init__(self, ranks: Ranks, settings: TrainerSettings) -> None:
        self._ranks = ranks
        self._saver = Saver(ranks, settings.checkpoints_kept, settings.collective_timeout_s)
        self._executor: Executor | None = None
        self._meter: FlopMeter | None = None

    @property
    def size(self) -> int:
        return self._ranks.size

    def explain(self, error: Exception) -> str:
        """What went wrong on this rank, for people."""
        explained = self._ranks.explain(error)
        return str(explained) if explained is not error else f"{type(error).__name__}: {error}"

    @property
    def checkpoint_fault(self) -> str | None:
        """Why the last checkpoint could not be written; None while it is under way."""
        return self._saver.fault

    @property
    def packs(self) -> bool:
        """Whether the model at hand computes micro-batches as forests."""
        return self._at_work().packs

    def give(self, order: Order) -> StepResult | float | None:
        """Rank 0: tell all ranks, and do one's own part."""
        self._ranks.broadcast(ORDER.dump_json(order))
        return self._obey(order)

    def begin(self, order: Begin) -> Dtype:
        """Rank 0: begin a training; returns the dtype that it computes in."""
        self.give(order)
        executor = self._at_work()
        self._meter = FlopMeter(executor.model, executor.dtype, self._ranks)
        return executor.dtype

    def utilisation(self, examples: Iterable[Example], seconds: float) -> float:
        """Rank 0: MFU of a step over these sequences."""
        assert self._meter is not None, "a step came before Begin"
        return self._meter.utilisation(examples, seconds)

    def step(self, order: Step) -> StepResult:
        """Rank 0: take one step."""
        result = self.give(order)
        assert isinstance(result, StepResult)
        return result

    def measure(self, order: Measure) -> float:
        """Rank 0: the loss of sequences that are not trained on."""
        loss = self.give(order)
        assert isinstance(loss, float)
        return loss

    def follow(self) -> None:
        """Other ranks: obey until told to quit."""
        while True:
            order = ORDER.validate_json(self._ranks.broadcast(None))
            if isinstance(order, Quit):
                return
            try:
                self._obey(order)
            except TrainingError as error:  # all ranks raise it together; rank 0 reports it
                _log.error("training failed", error=str(error))

    def _obey(self, order: Order) -> StepResult | float | None:
        match order:
            case Begin():
                self._executor = None
                self._executor = Executor(self._ranks, order)
            case Step():
                return self._at_work().step(order)
            case Measure():
                return self._at_work().measure(order)
            case Save():
                executor = self._at_work()
                cursor = Cursor.model_validate_json(order.cursor)
                self._saver.start(Path(order.folder), cursor, executor.model, executor.optimizer)
                if order.wait:
                    self._saver.finish()
            case Export():
                self._saver.finish()
                self._at_work().export(order)
            case End():
                self._saver.finish()
                self._executor = None
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            case Idle() | Quit():
                pass
        return None

    def _at_work(self) -> Executor:
        assert self._executor is not None, "an order came before Begin"
        return self._executor
