"""The learned blend of a spatial and a temporal branch."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer


class Blend(nn.Cell):
    """alpha * spatial + (1 - alpha) * temporal with alpha = sigmoid(mix_factor) (VideoLDM, section 3.1)."""

    def __init__(self):
        super().__init__()
        self.mix_factor = Parameter(initializer(0.5, (1,), ms.float32), name="mix_factor")

    def construct(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        alpha = ops.sigmoid(self.mix_factor.astype(ms.float32))
        return alpha.astype(spatial.dtype) * spatial + (1 - alpha).astype(spatial.dtype) * temporal
