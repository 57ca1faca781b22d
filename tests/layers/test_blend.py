"""The blend of a spatial and a temporal branch."""

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor

from svd.layers.blend import Blend

SPATIAL, TEMPORAL = np.random.default_rng(0).standard_normal((2, 1, 3, 4, 2, 2)).astype(np.float32)


@pytest.mark.parametrize("mix_factor, alpha", [(-100, 0), (-1.5, 1 / (1 + np.e**1.5)), (0, 0.5), (100, 1)])
def test_alpha_is_the_weight_of_the_spatial_branch(mode, mix_factor, alpha):
    blend = Blend()
    blend.mix_factor.set_data(Tensor([mix_factor], ms.float32))
    result = blend(Tensor(SPATIAL), Tensor(TEMPORAL))
    assert_close(result, alpha * SPATIAL + (1 - alpha) * TEMPORAL, 1e-6)


def test_float16_branches_give_float16(mode):
    result = Blend()(Tensor(SPATIAL, ms.float16), Tensor(TEMPORAL, ms.float16))
    assert result.dtype == ms.float16
    alpha = 1 / (1 + np.exp(-0.5))  # what training starts from
    assert_close(result, alpha * SPATIAL + (1 - alpha) * TEMPORAL, 2e-3)
