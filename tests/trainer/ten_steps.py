"""`torchrun ten_steps.py MODEL FILE`: ten steps of float32 training on made-up groups, the weights written to FILE."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from services.trainer.executor import Executor
from services.trainer.orders import Begin, Step
from services.trainer.packing import split_batch
from services.trainer.plan import make_plan
from services.trainer.ranks import join
from shared.returns import ReturnSpec
from shared.training import TrainingTask, TrainSpec
from tests.trainer.tiny import make_groups


def main(model: str, file: str) -> None:
    ranks = join(120, 1)
    train = TrainSpec(steps=10, batch_size=16, learning_rate=1e-3)
    task = TrainingTask(
        job="job", stage=0, model=model, tokenizer=model, groups=12, group_size=4, train=train, returns=ReturnSpec()
    )
    executor = Executor(ranks, Begin(task=task, dtype="float32", checkpoint=None))
    plan = make_plan(make_groups(groups=12), task.returns, train)
    for step in range(10):
        shares = split_batch(plan.batch(step), ranks.size, 100, executor.packs)
        assert not executor.step(Step(step=step + 1, learning_rate=1e-3, shares=shares, norm_limit=None)).suspects
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in executor.model.parameters()]
    if ranks.rank == 0:
        torch.save([p.detach().clone() for p in whole], file)
    dist.destroy_process_group()


main(*sys.argv[1:])
