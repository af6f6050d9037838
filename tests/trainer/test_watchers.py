"""Promises of what watches a training: each step once, in every sink, and no sink ever stops a training."""

import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import REGISTRY
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from services.trainer.flops import FlopMeter
from services.trainer.metrics import show_training
from services.trainer.population import Example
from services.trainer.ranks import Ranks
from services.trainer.watchers import JsonLines, StepRecord, TensorBoard, Watchers, watch
from shared.returns import ReturnSpec
from shared.training import TrainingState, TrainingStatus, TrainingTask, TrainSpec
from tests.trainer.tiny import make_model

TASK = TrainingTask(
    job="job", stage=1, model="m", tokenizer="m", groups=6, group_size=4, train=TrainSpec(), returns=ReturnSpec()
)


def record(step: int, loss: float = 0.5) -> StepRecord:
    return StepRecord(
        time=1e9, step=step, steps=9, loss=loss, nll=1.5, grad_norm=2.0, learning_rate=1e-3, tokens=100, seconds=0.5,
        tokens_per_s=200.0, mfu=0.4, skipped_mass=1e-4, effective_sample_size=None,
    )  # fmt: skip


def read_events(folder: Path) -> list[Event]:
    """The records of all event files: length, its checksum, the event, its checksum."""
    events: list[Event] = []
    for path in sorted(folder.glob("events*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_the_file_has_each_step_once_however_often_the_training_resumes(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    first = JsonLines(path, 0)
    for step in (1, 2, 3):
        first.record(record(step, loss=step))
    with path.open("a") as file:
        file.write(record(4).model_dump_json()[:20])  # killed in the midst of a line
    second = JsonLines(path, 2)
    second.record(record(3, loss=30))
    second.close()
    lines = [StepRecord.model_validate_json(line) for line in path.read_text().splitlines()]
    assert [(line.step, line.loss) for line in lines] == [(1, 1), (2, 2), (3, 30)]


def test_tensorboard_reads_the_curves_and_forgets_what_a_resumed_training_repeats(tmp_path: Path) -> None:
    watcher = TensorBoard(tmp_path, 0)
    watcher.record(record(1, loss=0.25))
    watcher.close()
    resumed = TensorBoard(tmp_path, 1)
    resumed.close()
    events = read_events(tmp_path)
    scalars = {(event.step, value.tag): value.simple_value for event in events for value in event.summary.value}
    assert scalars[1, "train/loss"] == 0.25 and scalars[1, "train/nll"] == 1.5
    assert any(event.session_log.status == 1 and event.step == 2 for event in events), "later steps are purged"


def test_weights_and_biases_resumes_the_run_of_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    class Run:
        def log(self, measures: dict[str, float], step: int) -> None:
            calls.append(("log", (step, measures["loss"])))

        def finish(self) -> None:
            calls.append(("finish", None))

    def init(**options: Any) -> Run:
        calls.append(("init", options))
        return Run()

    fake = types.ModuleType("wandb")
    fake.__dict__.update(init=init, Settings=lambda **options: options, __spec__=object())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    watchers = watch(TASK, tmp_path, 0)
    watchers.record(record(1))
    watchers.close()
    (_, options), logged, finished = calls
    assert options["id"] == "job-1" and options["resume"] == "allow" and options["config"]["train"]["batch_size"] == 128
    assert (logged, finished) == (("log", (1, 0.5)), ("finish", None))
    assert "secret" not in str(calls)


def test_a_sink_that_fails_is_dropped_and_the_others_go_on(tmp_path: Path) -> None:
    class Broken:
        told = 0

        def record(self, record: StepRecord) -> None:
            self.told += 1
            raise OSError("disk full")

        def close(self) -> None:
            raise OSError("still full")

    def cannot_open() -> Broken:
        raise PermissionError("read-only")

    broken = Broken()
    watchers = Watchers([cannot_open, lambda: broken, lambda: JsonLines(tmp_path / "train.jsonl", 0)])
    watchers.record(record(1))
    watchers.record(record(2))
    watchers.close()
    assert broken.told == 1
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 2


def test_model_flops_are_those_of_matrix_products_and_attention() -> None:
    model = make_model()
    meter = FlopMeter(model, "float32", Ranks(0, 1, torch.device("cpu")))
    body = sum(one.numel() for name, one in model.named_parameters() if "embed" not in name and "lm_head" not in name)
    head = 64 * 32
    example = Example(trajectory="t", tokens=[1] * 10, spans=[(6, 10)], coefficient=1.0)
    assert meter.flops([example]) == 6 * body * 10 + 6 * head * 4 + 6 * 32 * 2 * 10**2
    for parameter in model.parameters():
        parameter.requires_grad = False
    frozen = FlopMeter(model, "float32", Ranks(0, 1, torch.device("cpu")))
    assert frozen.flops([example]) == 4 * body * 10 + 4 * head * 4 + 6 * 32 * 2 * 10**2
    assert 0 < meter.utilisation([example], seconds=1.0) < 1


def test_metrics_are_those_of_the_training_at_hand_and_not_of_one_that_waits() -> None:
    show_training(TrainingStatus(state=TrainingState.RUNNING, stage=0, step=7, steps=9))
    show_training(TrainingStatus(state=TrainingState.WAITING, stage=0))
    assert REGISTRY.get_sample_value("drift_training_running") == 1
    assert REGISTRY.get_sample_value("drift_training_step") == 7
