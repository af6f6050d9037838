"""The ranks of one torchrun, and what they say to each other: bytes and sums; every wait has a deadline."""

import os
import time
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from shared.errors import DriftError


class RanksSilent(DriftError):
    """The other ranks have not taken part within the deadline."""


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. Control messages go over gloo on the CPU, whatever the device."""

    rank: int
    size: int
    device: torch.device
    timeout_s: float = 900.0
    """Deadline of each wait for the others."""

    def explain(self, error: BaseException) -> BaseException:
        """The error itself, or what it means where it is the deadline of a collective."""
        text = str(error).lower()
        if not isinstance(error, RuntimeError) or not any(
            word in text for word in ("timed out", "timing out", "timeout")
        ):
            return error
        return RanksSilent(
            f"Rank {self.rank} has waited {self.timeout_s:.0f} s for the other ranks in vain: "
            f"one of them hangs, or its machine is gone.",
            remedy="All start again from the last checkpoint; see the other ranks' logs, "
            "or raise DRIFT_COLLECTIVE_TIMEOUT_S if they were only slow.",
        )

    def broadcast(self, payload: bytes | None) -> bytes:
        """Rank 0's payload, on every rank."""
        length = torch.tensor([len(payload) if payload is not None else 0])
        dist.broadcast(length, src=0)
        data = torch.empty(int(length), dtype=torch.uint8)
        if payload:
            data.copy_(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
        dist.broadcast(data, src=0)
        return data.numpy().tobytes()

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the ranks of a CPU tensor, in place."""
        dist.all_reduce(values)
        return values

    def collect(self, text: str) -> list[str]:
        """Every rank's text, on every rank, cut to 4,000 bytes."""
        own = torch.zeros(4000, dtype=torch.uint8)
        data = text.encode()[:4000]
        own[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
        gathered = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(gathered, own)
        return [one.numpy().tobytes().rstrip(b"\0").decode(errors="ignore") for one in gathered]

    def barrier(self) -> None:
        """Wait for all."""
        self.sum(torch.zeros(1))


def join(timeout_s: float, threads: int) -> Ranks:
    """Meet the other ranks where torchrun says; gloo for CPU tensors, nccl for GPU ones."""
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // local_size))
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(name_attempt(store, rank, size, timeout_s), store),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )
    return Ranks(dist.get_rank(), dist.get_world_size(), device, timeout_s)


def name_attempt(store: dist.Store, rank: int, size: int, timeout_s: float) -> str:
    """What ranks that start together call their attempt, as none before; raises `RanksSilent` where one is missing.

    torchrun's agents keep one store over their restarts, where ranks would meet the addresses of their dead
    predecessors, and each node counts its restarts by itself. So rank 0 draws a name, and tells it whoever asks until
    each rank has heard it: what a dead rank asked is answered in vain.
    """
    deadline = time.monotonic() + timeout_s
    name = uuid4().hex
    if rank:
        question = f"question/{uuid4().hex}"
        store.set(f"rank/{rank}", question)
        while not store.check([question]):
            _pause(rank, 0, deadline)
        name = store.get(question).decode()
        store.set(f"heard/{name}/{rank}", "")
        return name
    for other in range(1, size):
        while not store.check([f"heard/{name}/{other}"]):
            if store.check([f"rank/{other}"]):
                store.set(store.get(f"rank/{other}").decode(), name)
            _pause(rank, other, deadline)
    return name


def _pause(rank: int, other: int, deadline: float) -> None:
    """Between two looks into the store; one that blocks there would keep signals from their handlers."""
    if time.monotonic() > deadline:
        raise RanksSilent(f"Rank {rank} has waited for rank {other} in vain.", remedy="See that rank's log.")
    time.sleep(0.02)
