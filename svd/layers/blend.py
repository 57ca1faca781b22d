"""The learned blend of a spatial and a temporal branch."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from svd.operators.shared import shared
from svd.operators.table import PORTABLE, Operators


class Blend(nn.Cell):
    """alpha * spatial + (1 - alpha) * temporal with alpha = sigmoid(mix_factor) (VideoLDM, section 3.1)."""

    is_temporal = True

    def __init__(self):
        super().__init__()
        self.mix_factor = Parameter(initializer(0.5, (1,), ms.float32), name="mix_factor")
        self.set_operators(PORTABLE)

    def set_operators(self, operators: Operators) -> None:
        self.blend = shared(operators.blend)

    def construct(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        return self.blend(spatial, temporal, ops.sigmoid(self.mix_factor.astype(ms.float32)))
