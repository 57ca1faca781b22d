"""Several cards, as far as one process can tell: who owns what, and what a run of one leaves out."""

import numpy as np
import pytest
from mindspore.nn.utils import no_init_parameters
from small_model import SMALL

from svd.layers.marks import temporal_parameters
from svd.networks.blocks.svd import svd_unet
from svd.runtime import join_ranks
from svd.training.distributed import Ranks, owners


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_all_is_owned_in_equal_shares(ranks):
    """Of the real network's parameters, whose sizes differ a thousandfold."""
    with no_init_parameters():
        sizes = [p.size for p in temporal_parameters(svd_unet(SMALL.unet))]
    owned = owners(sizes, ranks)
    assert len(owned) == len(sizes) and set(owned) == set(range(ranks))
    loads = [sum(size for size, owner in zip(sizes, owned) if owner == rank) for rank in range(ranks)]
    assert max(loads) < 1.02 * sum(sizes) / ranks
    assert owners(list(sizes), ranks) == owned


def test_no_share_is_larger_than_another_by_more_than_a_parameter():
    sizes = np.random.default_rng(0).integers(1, 1000, 57).tolist()
    owned = owners(sizes, 4)
    loads = [sum(size for size, owner in zip(sizes, owned) if owner == rank) for rank in range(4)]
    assert max(loads) - min(loads) <= max(sizes)


def test_owners_by_hand():
    """The largest first, each to whoever has least, the first of those who have the same."""
    assert owners([1, 5, 4, 1, 2], 2) == [0, 0, 1, 0, 1]
    assert owners([3], 3) == [0] and owners([], 2) == []


def test_a_run_of_one_process_waits_for_nobody():
    ranks = Ranks()
    assert (ranks.rank, ranks.count, ranks.first) == (0, 1, True)
    assert ranks.sum(1.5, -2.0) == [1.5, -2.0]
    assert ranks.sum(1e300) == [1e300]  # in float64, as it was
    assert ranks.wait() is None


def test_without_msrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("MS_ROLE", raising=False)
    assert join_ranks() == (0, 1)
