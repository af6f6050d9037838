"""This trainer against others: same trajectories, same model, same machine, same dtype, same threads.

    python -m bench.trainer [--model FOLDER] [--dataset RUNS_ROOT/JOB/dataset/rollout-0] [--json FILE]

(i) a Hugging Face Trainer subclass as is usual for weighted SFT: every trajectory, right-padded, the logits of all
positions; (ii) TRL's SFTTrainer, unweighted, where `trl` is installed; (iii) this trainer on one rank and (iv) on two.
Each runs in processes of its own. What is timed is whole optimiser steps on the same |B| trajectories, after a
warm-up; an epoch is as many of them as it takes. This trainer is timed before and after the others, so that a machine
that gets slower meanwhile favours neither. Memory is the peak resident set of one process, everything counted; for two
ranks, the larger one's.

Without `--dataset` the trajectories are made up with the lengths of the demo's: prompts of 60 to 150 tokens, of which
all share the first 24, up to five turns of up to eight tokens, groups of eight. The trainer's own settings hold here,
too: `DRIFT_TRAINER_COMPILE=1` measures it compiled.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer's own entry sets it, for all contenders

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from services.trainer.orders import Begin, Step
from services.trainer.packing import split_batch
from services.trainer.plan import Plan, make_plan
from services.trainer.population import Example
from services.trainer.ranks import Ranks, join
from services.trainer.settings import TrainerSettings
from shared.grading import Verdict
from shared.returns import ReturnSpec
from shared.shards import read_part
from shared.training import TrainingTask, TrainSpec
from shared.trajectory import Problem, Trajectory, Turn

if TYPE_CHECKING:
    from services.trainer.executor import Executor

EPSILON = 1e-3
Figures = dict[str, float]


def read_trajectories(arguments: argparse.Namespace) -> Iterable[Trajectory]:
    return read_part(arguments.dataset) if arguments.dataset else synthesise()


def synthesise(groups: int = 128, group_size: int = 8) -> Iterable[Trajectory]:
    """Trajectories with the demo's lengths and outcomes, random tokens."""
    rng = random.Random(0)

    def draw(count: int) -> list[int]:
        return [rng.randrange(100, 40_000) for _ in range(count)]

    head, feedback = draw(24), draw(20)
    for group in range(groups):
        first = [*head, *draw(rng.randint(36, 126))]
        for k in range(group_size):
            solved_at = rng.choices([1, 2, 3, 4, 5, 6], [22, 12, 7, 4, 2, 53])[0]
            turns: list[Turn] = []
            prompt = list(first)
            for turn in range(1, min(solved_at, 5) + 1):
                tokens, answer = draw(rng.randint(2, 8)), rng.choice("ABCD")
                verdict = Verdict.CORRECT if turn == solved_at else Verdict.INCORRECT
                turns.append(
                    Turn(
                        prompt_token_ids=list(prompt), token_ids=tokens, text=answer, finish_reason="stop",
                        verdict=verdict, answer=answer, normal_form=answer, method="choice",
                    )
                )  # fmt: skip
                prompt += [*tokens, *feedback]
            yield Trajectory(
                job="bench", phase="rollout", stage=0, policy="base", group=group, k=k, group_size=group_size,
                problem=Problem(id=str(group), kind="choice", problem="?", answer="B", choices=["a", "b", "c", "d"]),
                turns=turns, ending="solved" if solved_at <= 5 else "max_turns", engine="none", model="none",
            )  # fmt: skip


def plan_of(arguments: argparse.Namespace, epsilon: float, batch_size: int) -> Plan:
    return make_plan(read_trajectories(arguments), ReturnSpec(), TrainSpec(batch_size=batch_size, epsilon=epsilon))


def first_batch(arguments: argparse.Namespace, epsilon: float = 0.0) -> list[Example]:
    return plan_of(arguments, epsilon, arguments.batch_size).batch(0)


def measure_baseline(arguments: argparse.Namespace) -> Figures:
    """In a process that has imported nothing of this trainer that the baseline does not need."""
    from bench.trainer_baselines import measure_trainer, measure_trl

    batch = first_batch(arguments)
    measure = measure_trl if arguments.measure == "trl" else measure_trainer
    seconds = measure(arguments.model, arguments.dtype, batch)
    return {"seconds": seconds, "memory": peak(), **supervised_in(batch)}


def begin(arguments: argparse.Namespace, ranks: Ranks, dtype: str | None) -> "Executor":
    from services.trainer.executor import Executor

    task = TrainingTask(
        job="bench", stage=0, model=arguments.model, tokenizer=arguments.model, groups=1, group_size=1,
        train=TrainSpec(batch_size=arguments.batch_size), returns=ReturnSpec(),
    )  # fmt: skip
    settings = TrainerSettings()
    order = {
        "task": task, "dtype": dtype, "checkpoint": None,
        "micro_batch_tokens": settings.micro_batch_tokens, "compile": settings.trainer_compile,
    }  # fmt: skip
    return Executor(ranks, Begin.model_validate(order))


def measure_ours(arguments: argparse.Namespace) -> Figures:
    """This rank of a torchrun: the mean of the steps after a first one, all on the same batch as the others'."""
    from services.trainer.flops import FlopMeter

    ranks = join(600, 0)
    executor = begin(arguments, ranks, None if arguments.dtype == "auto" else arguments.dtype)
    plan = plan_of(arguments, EPSILON, arguments.batch_size)
    batch = plan.batch(0)
    shares = split_batch(batch, ranks.size, TrainerSettings().micro_batch_tokens, executor.packs)
    results = [
        executor.step(Step(step=step + 1, learning_rate=5e-6, shares=shares, norm_limit=None))
        for step in range(arguments.steps + 1)
    ]
    largest = max(map(float, ranks.collect(str(peak()))))
    dist.destroy_process_group()
    seconds = sum(result.seconds for result in results[1:]) / arguments.steps
    return {
        "seconds": seconds,
        "memory": largest,
        "flops": FlopMeter(executor.model, executor.dtype, ranks).flops(batch) / seconds,
        "bfloat16": float(executor.dtype == "bfloat16"),
        "steps_an_epoch": len(plan.population.members) / arguments.batch_size,
        "skipped_mass": plan.population.skipped_mass,
        "skipped_token_share": plan.population.skipped_token_share,
        **supervised_in(batch),
    }


def measure_cosines(arguments: argparse.Namespace) -> Figures:
    """Cosine of a batch's float32 gradient to the subclass's, at epsilon 0 and at the default."""
    from transformers import AutoModelForCausalLM, PreTrainedModel

    from bench.trainer_baselines import ROWS, WeightedTrainer, collate

    full = plan_of(arguments, 0.0, arguments.cosine_batch).batch(0)
    baseline: PreTrainedModel = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    for start in range(0, len(full), ROWS):
        rows = collate(full[start : start + ROWS])
        rows["weights"] = rows["weights"] * len(rows["weights"])
        WeightedTrainer.compute_loss(None, baseline, rows).backward()  # pyright: ignore[reportArgumentType]
    wanted = gradient_of(baseline)
    del baseline
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    executor = begin(arguments, Ranks(0, 1, torch.device("cpu")), "float32")
    cosines: Figures = {}
    for name, epsilon in (("cosine_epsilon_0", 0.0), ("cosine_default", EPSILON)):
        batch = plan_of(arguments, epsilon, arguments.cosine_batch).batch(0)
        shares = split_batch(batch, 1, TrainerSettings().micro_batch_tokens, executor.packs)
        executor.model.zero_grad()
        executor.backward(Step(step=1, learning_rate=0.0, shares=shares, norm_limit=None))
        cosines[name] = float(functional.cosine_similarity(wanted, gradient_of(executor.model), dim=0))
    return cosines


def gradient_of(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()


def supervised_in(batch: Sequence[Example]) -> Figures:
    return {"supervised": float(sum(stop - start for one in batch for start, stop in one.spans))}


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(what: str, dtype: str, ranks: int = 0) -> Figures:
    """One measurement in processes of its own, which leave their figures in a file."""
    print(f"{time.strftime('%T')} {what}{f', {ranks} ranks' if ranks > 1 else ''}", file=sys.stderr, flush=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks else []
    with tempfile.NamedTemporaryFile() as file:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        arguments = [*sys.argv[1:], "--dtype", dtype, "--measure", what, "--result", file.name]
        subprocess.run([sys.executable, *torchrun, __file__, *arguments], check=True, env=environment, timeout=900)
        return json.loads(Path(file.name).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=next(map(str, Path(".drift/model").glob("*/")), None))
    parser.add_argument("--dataset", type=Path, help="a recorded part; absent: made up")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of this trainer in each of its runs")
    parser.add_argument("--batch-size", type=int, default=128, help="|B|, a multiple of 8")
    parser.add_argument("--cosine-batch", type=int, default=32, help="trajectories whose gradients are compared")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", choices=["ours", "trainer", "trl", "cosines"], help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.model:
        parser.error("--model is missing: name a Hugging Face folder, or make one under .drift/model with `make demo`")
    if arguments.measure:
        measures = {
            "ours": measure_ours,
            "trainer": measure_baseline,
            "trl": measure_baseline,
            "cosines": measure_cosines,
        }
        figures = measures[arguments.measure](arguments)
        if int(os.environ.get("RANK", "0")) == 0:
            arguments.result.write_text(json.dumps(figures))
        return
    compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    before = run("ours", arguments.dtype, 1)
    dtype = "bfloat16" if before["bfloat16"] else "float32"
    trainer = run("trainer", dtype)
    trl = run("trl", dtype) if find_spec("trl") else None
    two, after, cosines = run("ours", dtype, 2), run("ours", dtype, 1), run("cosines", dtype)
    one = before | {name: (before[name] + after[name]) / 2 for name in ("seconds", "flops")}
    one["memory"] = max(before["memory"], after["memory"])
    figures = {
        "epoch_speedup": trainer["seconds"] / one["seconds"],
        "peak_memory_ratio": one["memory"] / trainer["memory"],
        **cosines,
        "skipped_token_share": one["skipped_token_share"],
        "skipped_mass": one["skipped_mass"],
        "two_rank_speedup": one["seconds"] / two["seconds"],
    }
    contenders = {"HF Trainer subclass": trainer, "TRL SFTTrainer": trl, "this, 1 rank": one, "this, 2 ranks": two}
    source = arguments.dataset or "made-up trajectories"
    print(
        f"{source}, {dtype}; one step of {arguments.batch_size}, this trainer 2 x {arguments.steps}; epochs from these"
    )
    print(f"{'':22}{'s/step':>9}{'s/epoch':>10}{'supervised/s':>14}{'MiB a process':>15}")
    for name, measured in contenders.items():
        if measured is None:
            print(f"{name:22} not installed: it is in the extra `bench`")
            continue
        seconds = measured["seconds"]
        epoch, rate = seconds * one["steps_an_epoch"], measured["supervised"] / seconds
        print(f"{name:22}{seconds:9.1f}{epoch:10.0f}{rate:14.1f}{measured['memory']:15.0f}")
    gflops, first, last = one["flops"] / 1e9, before["seconds"], after["seconds"]
    print(f"this, 1 rank: {gflops:.0f} GFLOP/s without sharing; {first:.1f} s a step before, {last:.1f} after")
    for name, value in figures.items():
        print(f"{name:22} {value:.6g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
