"""This trainer against a Hugging Face Trainer subclass: same dataset, same model, same machine, same batches.

    python bench/trainer.py --model FOLDER --dataset RUNS_ROOT/JOB/dataset/rollout-0 [--steps 2] [--json FILE]

The subclass does what is usual: every trajectory, right-padded, with the logits of all positions. Each contender
runs in processes of its own; the first step of each is not counted.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from services.trainer.executor import Executor
from services.trainer.orders import Begin, Step
from services.trainer.packing import split_batch
from services.trainer.plan import Plan, make_plan
from services.trainer.population import Example
from services.trainer.ranks import Ranks, join
from services.trainer.settings import TrainerSettings
from shared.job import TrainingTask, TrainSpec
from shared.returns import ReturnSpec
from shared.shards import read_part

MICRO_BATCH = 4
"""Rows that the subclass holds at a time."""


class WeightedTrainer(Trainer):
    """Mean over rows of w_i mean_u -log p(u), with the full logits and a label of -100 for what is not supervised."""

    def compute_loss(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor:
        weights, labels = inputs.pop("weights"), inputs.pop("labels")
        logits = model(**inputs).logits
        nll = functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none")
        supervised = labels[:, 1:] != -100
        return (weights * (nll * supervised).sum(1) / supervised.sum(1)).mean()


def collate(examples: list[Example]) -> dict[str, Tensor]:
    """Rows padded on the right, shape [rows, longest]."""
    length = max(len(example.tokens) for example in examples)
    tokens = torch.zeros(len(examples), length, dtype=torch.long)
    labels = torch.full_like(tokens, -100)
    mask = torch.zeros_like(tokens)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
        mask[row, : len(example.tokens)] = 1
        for span in example.spans:
            labels[row, slice(*span)] = tokens[row, slice(*span)]
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels, "weights": torch.tensor(_weights(examples))}


def _weights(examples: list[Example]) -> list[float]:
    return [one.coefficient * sum(stop - start for start, stop in one.spans) for one in examples]


def plan_of(arguments: argparse.Namespace, epsilon: float) -> Plan:
    train = TrainSpec(steps=arguments.steps + 1, batch_size=arguments.batch_size, epsilon=epsilon)
    return make_plan(read_part(arguments.dataset), ReturnSpec(), train)


def measure_trainer(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of the steps after the first, and the peak of memory."""
    plan = plan_of(arguments, 0.0)
    rows = [one for step in range(arguments.steps + 1) for one in plan.batch(step)]
    rows = [one.model_copy(update={"coefficient": one.coefficient * arguments.batch_size}) for one in rows]
    ends: list[float] = []

    class Timed(WeightedTrainer):
        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=MICRO_BATCH, max_steps=arguments.steps + 1,
            gradient_accumulation_steps=arguments.batch_size // MICRO_BATCH, remove_unused_columns=False, use_cpu=True,
            bf16=arguments.dtype == "bfloat16", logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
            weight_decay=0.1, max_grad_norm=1.0, learning_rate=5e-6, train_sampling_strategy="sequential",
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
        Timed(model=model, args=settings, train_dataset=rows, data_collator=collate).train()  # pyright: ignore[reportArgumentType]
    return {"seconds": ends[arguments.steps] - ends[0], "memory": _peak()}


def begin(arguments: argparse.Namespace, ranks: Ranks, dtype: str) -> Executor:
    train = TrainSpec(steps=arguments.steps + 1, batch_size=arguments.batch_size)
    task = TrainingTask(
        job="bench", stage=0, model=arguments.model, tokenizer=arguments.model, groups=1, group_size=1, train=train,
        returns=ReturnSpec(),
    )  # fmt: skip
    return Executor(ranks, Begin.model_validate({"task": task, "dtype": dtype, "checkpoint": None}))


def measure_ours(arguments: argparse.Namespace) -> dict[str, float]:
    """The same, for this rank of a torchrun."""
    ranks = join(600, 0)
    executor = begin(arguments, ranks, arguments.dtype)
    plan = plan_of(arguments, 1e-3)
    budget = TrainerSettings().micro_batch_tokens
    seconds = [
        executor.step(
            Step(step=step + 1, learning_rate=5e-6, shares=split_batch(plan.batch(step), ranks.size, budget))
        ).seconds
        for step in range(arguments.steps + 1)
    ]
    dist.destroy_process_group()
    population = plan.population
    facts = {"skipped_mass": population.skipped_mass, "skipped_token_share": population.skipped_token_share}
    return {"seconds": sum(seconds[1:]), "memory": _peak(), **facts} if ranks.rank == 0 else {}


def measure_cosines(arguments: argparse.Namespace) -> dict[str, float]:
    """Cosine of the first batch's float32 gradient to the subclass's, at epsilon 0 and at the default."""
    full = plan_of(arguments, 0.0).batch(0)
    baseline: PreTrainedModel = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    for start in range(0, len(full), MICRO_BATCH):
        rows = collate(full[start : start + MICRO_BATCH])
        rows["weights"] = rows["weights"] * len(rows["weights"])
        WeightedTrainer.compute_loss(None, baseline, rows).backward()  # pyright: ignore[reportArgumentType]
    wanted = _gradient(baseline)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    cosines: dict[str, float] = {}
    for name, epsilon in (("cosine_epsilon_0", 0.0), ("cosine_default", 1e-3)):
        executor = begin(arguments, Ranks(0, 1, torch.device("cpu")), "float32")
        shares = split_batch(plan_of(arguments, epsilon).batch(0), 1, TrainerSettings().micro_batch_tokens)
        executor.backward(Step(step=1, learning_rate=0.0, shares=shares))
        cosines[name] = float(functional.cosine_similarity(wanted, _gradient(executor.model), dim=0))
    return cosines


def _gradient(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _run(what: str, ranks: int = 0) -> dict[str, float]:
    """One measurement in processes of its own; they leave their figures in a file."""
    with tempfile.NamedTemporaryFile() as file:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks else []
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, *torchrun, __file__, *sys.argv[1:], "--measure", what, "--result", file.name]
        subprocess.run(command, check=True, env=environment)
        return json.loads(Path(file.name).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", choices=["ours", "trainer", "cosines"], help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        act = {"ours": measure_ours, "trainer": measure_trainer, "cosines": measure_cosines}[arguments.measure]
        if figures := act(arguments):
            arguments.result.write_text(json.dumps(figures))
        return
    one, two, trainer, cosines = _run("ours", 1), _run("ours", 2), _run("trainer"), _run("cosines")
    figures = {
        "epoch_speedup": trainer["seconds"] / one["seconds"],
        "peak_memory_ratio": one["memory"] / trainer["memory"],
        **cosines,
        "skipped_token_share": one["skipped_token_share"],
        "skipped_mass": one["skipped_mass"],
        "two_rank_speedup": one["seconds"] / two["seconds"],
    }
    print(f"{arguments.steps} steps of {arguments.batch_size}, {arguments.dtype}:")
    for name, measured in (("this trainer, 1 rank", one), ("this trainer, 2 ranks", two), ("HF Trainer", trainer)):
        print(f"  {name:22} {measured['seconds']:8.1f} s  {measured['memory']:8.0f} MiB a process")
    for name, value in figures.items():
        print(f"{name:22} {value:.6g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
