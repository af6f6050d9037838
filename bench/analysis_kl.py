"""How far trained policies moved from the base on recorded episodes; `bench.analysis` says what is told."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.jackknife import BLOCKS, Figure, jackknife
from services.trainer.population import cut_examples
from shared.shards import read_part
from shared.trajectory import Trajectory


def read_episodes(folder: Path, most: int) -> list[Trajectory]:
    """One of each group before a second of any, by the groups' numbers: never those that happened to end first."""
    return sorted(filter(has_response, read_part(folder)), key=lambda one: (one.k, one.group))[:most]


def has_response(trajectory: Trajectory) -> bool:
    return any(turn.token_ids for turn in trajectory.turns)


@torch.no_grad()
def read_off(model: PreTrainedModel, episodes: Iterable[Trajectory]) -> Iterator[Tensor]:
    """log p of each episode: of all responses' tokens over the vocabulary, shape [tokens, vocabulary].

    Responses that reappear unchanged in the last context are read off one sequence with it, others off their own.
    """
    for episode in episodes:
        rows: list[Tensor] = []
        for example in cut_examples(episode, 1.0, "all_turns", sys.maxsize).examples:
            places = [place - 1 for start, stop in example.spans for place in range(start, stop)]
            ids = torch.tensor([example.tokens])
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=torch.tensor(places)).logits
            rows.append(logits[0].log_softmax(-1))
        yield torch.cat(rows)


def measure_kl(
    policies: Iterable[tuple[str, PreTrainedModel]], base: PreTrainedModel, episodes: Sequence[Trajectory]
) -> dict[str, Figure]:
    """Mean of KL(policy || base) over the tokens of the episodes' responses, in nats."""
    reference = list(read_off(base, episodes))
    tokens = torch.tensor([float(len(one)) for one in reference])
    sums = {
        name: torch.stack(
            [(p.exp() * (p - q)).sum() for p, q in zip(read_off(policy, episodes), reference, strict=True)]
        )
        for name, policy in policies
    }
    blocks = torch.arange(len(episodes)) % BLOCKS

    def estimate(kept: Sequence[int]) -> dict[str, float]:
        taken = torch.isin(blocks, torch.tensor(list(kept)))
        return {name: float(sum_[taken].sum() / tokens[taken].sum()) for name, sum_ in sums.items()}

    return jackknife(estimate)
