"""The learned blend of a spatial and a temporal branch."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from svd.layers.marks import zero_init
from svd.operators.shared import shared
from svd.operators.table import PORTABLE, Operators


class Clamp(nn.Cell):
    """x cut to [0, 1]; where it is cut, its derivative is zero only if descent would lead further outside.

    So a parameter follows projected gradient descent: it stays at a bound, but does not get stuck there.
    """

    def construct(self, x: Tensor) -> Tensor:
        return ops.minimum(ops.maximum(x, 0.0), 1.0)  # ops.clamp is not documented for Ascend

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        outward = ops.logical_or(
            ops.logical_and(x >= 1, dout < 0),
            ops.logical_and(x <= 0, dout > 0),
        )
        return (dout * ops.cast(ops.logical_not(outward), dout.dtype),)


class Blend(nn.Cell):
    """alpha * spatial + (1 - alpha) * temporal with alpha = sigmoid(mix_factor) (VideoLDM, section 3.1).

    If `clamped`, alpha itself is the parameter, cut to [0, 1].
    """

    is_temporal = True

    def __init__(self, clamped: bool = False):
        super().__init__()
        self.clamped = clamped
        if clamped:
            self.alpha = Parameter(initializer("ones", (1,), ms.float32), name="alpha")
            self.clamp = Clamp()
        else:
            self.mix_factor = Parameter(initializer(0.5, (1,), ms.float32), name="mix_factor")
        self.set_operators(PORTABLE)

    def set_operators(self, operators: Operators) -> None:
        self.blend = shared(operators.blend)

    def construct(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        if self.clamped:
            alpha = self.clamp(ops.cast(self.alpha, ms.float32))
        else:
            alpha = ops.sigmoid(ops.cast(self.mix_factor, ms.float32))
        return self.blend(spatial, temporal, alpha)


def residual_blend(clamped: bool) -> Blend:
    """The blend with a branch that begins as the identity: a clamped alpha begins at 0, so that all of it is trained.

    At 1, neither alpha nor the branch would have a gradient.
    """
    return zero_init(Blend(clamped)) if clamped else Blend()
