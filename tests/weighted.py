"""A result as one number, whose gradients tests compare."""

from mindspore import Tensor, nn, ops


class Weighted(nn.Cell):
    """A layer's result times fixed numbers, so that its gradient is of no special form."""

    def __init__(self, layer: nn.Cell):
        super().__init__(auto_prefix=False)
        self.layer = layer

    def construct(self, weight: Tensor, *inputs: Tensor) -> Tensor:
        return ops.reduce_sum(self.layer(*inputs) * weight)
