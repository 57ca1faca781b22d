"""How many compiled graphs stay in memory."""

import numpy as np
from mindspore import Tensor

from svd import runtime
from svd.graphs import keep_latest
from svd.layers.basic import Linear


def test_the_latest_graphs_are_kept():
    """By their last use; what was released is compiled again, and right."""
    runtime.setup("CPU", 0)
    layer, plain = Linear(3, 2), Linear(3, 2)
    for parameter, same in zip(layer.get_parameters(), plain.get_parameters()):
        same.set_data(parameter)
    keep_latest(layer, most=2)
    sizes, compiled = [], []
    for rows in (1, 2, 1, 3, 1, 2, 2, 3):
        x = Tensor(np.full((rows, 3), rows, np.float32))
        before = set(layer.compile_cache)
        np.testing.assert_array_equal(layer(x).asnumpy(), plain(x).asnumpy())
        sizes.append(len(layer.compile_cache))
        compiled.append(bool(layer.compile_cache - before))
    assert sizes == [1, 2, 2, 2, 2, 2, 2, 2]
    assert compiled == [True, True, False, True, False, True, False, True]


def test_nothing_is_released_in_pynative_mode(eager):
    layer = Linear(3, 2)
    keep_latest(layer, most=1)
    for rows in (1, 2, 3):
        assert layer(Tensor(np.ones((rows, 3), np.float32))).shape == (rows, 2)
