"""Ranks that start together find each other, and nobody else, whatever earlier ones have left behind."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from services.trainer.ranks import RanksSilent, name_attempt


def name_all(store: dist.Store, ranks: range, size: int, timeout_s: float = 10.0) -> set[str]:
    with ThreadPoolExecutor(size) as pool:
        return set(pool.map(lambda rank: name_attempt(store, rank, size, timeout_s), ranks))


@pytest.mark.parametrize("dead", [range(1), range(1, 3), range(2, 3), range(0)])
def test_ranks_that_start_together_share_a_name_that_none_had_before(dead: range) -> None:
    """In an attempt of three, some only come; a whole one went before and one follows."""
    store = dist.HashStore()
    first = name_all(store, range(3), 3)
    if dead:
        with pytest.raises(RanksSilent):
            name_all(store, dead, 3, timeout_s=0.1)
    last = name_all(store, range(3), 3)
    assert len(first) == len(last) == 1 and first != last
