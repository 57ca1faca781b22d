"""Temporal attention of videos and of their reversal: Generative Inbetweening (arXiv 2408.15239).

The network of videos backward from their last frame is that of videos forward from their first one, but for the values
and the output of temporal self-attention, which were fine-tuned, and for its attention probabilities: they are those of
the forward video, rotated by 180 degrees, so that both videos move alike.

The first half of a batch are forward clips, the second half the backward clips that belong to them.
"""

from collections.abc import Mapping
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from svd.checkpoints.tensor_header import CheckpointError
from svd.layers.attention import Attention, TransformerBlock
from svd.layers.basic import Linear


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """[2b ...] -> [b ...] of forward clips and [b ...] of backward ones"""
    return ops.Split(0, 2)(x)


class PairedLinear(nn.Cell):
    """A linear layer of forward clips, and another of backward ones."""

    def __init__(self, forward: Linear, backward: Linear):
        super().__init__()
        self.forward, self.backward = forward, backward

    def construct(self, x: Tensor) -> Tensor:
        """[2b ... i] -> [2b ... o]"""
        forward, backward = halves(x)
        return ops.cat((self.forward(forward), self.backward(backward)))

    def add_to(self, x: Tensor, h: Tensor, shift: Optional[Tensor] = None) -> Tensor:
        """x [2b m o] + layer(h) + shift: h [2b m i], shift [2b 1 o] or None."""
        x_forward, x_backward = halves(x)
        h_forward, h_backward = halves(h)
        if shift is None:
            return ops.cat((self.forward.add_to(x_forward, h_forward), self.backward.add_to(x_backward, h_backward)))
        s_forward, s_backward = halves(shift)
        y = self.forward.add_to(x_forward, h_forward, s_forward)
        return ops.cat((y, self.backward.add_to(x_backward, h_backward, s_backward)))


class PairedAttention(nn.Cell):
    """Self-attention over frames, with the forward clips' probabilities for both, rotated for the backward ones.

    The rotation of softmax(Q K^T) is softmax((R Q) (R K)^T), R the reversal of time: queries and keys are taken over
    rather than probabilities, and attention is computed as everywhere else, by each device's own operator.
    """

    def __init__(self, attention: Attention, backward_v: Linear, backward_out: Linear):
        super().__init__()
        self.to_q, self.to_k, self.attention = attention.to_q, attention.to_k, attention.attention
        self.to_v, self.to_out = PairedLinear(attention.to_v, backward_v), PairedLinear(attention.to_out, backward_out)
        self.reverse = ops.ReverseV2(axis=[1])

    def attend(self, x: Tensor) -> Tensor:
        """Without the output projection: x [2b l c], every row the frames of a pixel -> [2b l c]"""
        forward, _ = halves(x)
        q, k = self.to_q(forward), self.to_k(forward)
        return self.attention(ops.cat((q, self.reverse(q))), ops.cat((k, self.reverse(k))), self.to_v(x))


def pair_attention(network: nn.Cell, difference: Mapping[str, np.ndarray]) -> None:
    """Change a network, loaded and placed, into one of forward clips and backward ones.

    Args:
        difference: what is added, for backward clips, to values and output of all temporal self-attentions, by the
            names of their parameters in the network.

    Raises:
        CheckpointError: it is not that of all these parameters.
    """
    difference = dict(difference)
    for name, block in list(network.cells_and_names()):
        if isinstance(block, TransformerBlock) and block.is_temporal:
            layers = (block.attn1.to_v, f"{name}.attn1.to_v"), (block.attn1.to_out, f"{name}.attn1.to_out")
            block.attn1 = PairedAttention(block.attn1, *(_changed(layer, where, difference) for layer, where in layers))
    if difference:
        problem = f"reversal changes {next(iter(difference))}, which is no value or output of temporal self-attention"
        raise CheckpointError(problem, setting="reversal")


def _changed(layer: Linear, name: str, difference: dict[str, np.ndarray]) -> Linear:
    """A linear layer like this one, with other weights."""
    o, i = layer.weight.shape
    other = Linear(i, o, bias=layer.bias is not None).set_train(False)
    other.linear, other.add_linear = layer.linear, layer.add_linear
    other.weight = _with_added(layer.weight, difference, f"{name}.weight")
    if layer.bias is not None:
        other.bias = _with_added(layer.bias, difference, f"{name}.bias")
    return other


def _with_added(parameter: Parameter, difference: dict[str, np.ndarray], name: str) -> Parameter:
    added = difference.pop(name, None)
    if added is None or added.shape != parameter.shape:
        found = "nothing" if added is None else list(added.shape)
        raise CheckpointError(f"reversal has {found} for {name} {list(parameter.shape)}", setting="reversal")
    value = ops.cast(parameter, ms.float32) + Tensor(added)
    return Parameter(ops.cast(value, parameter.dtype), name=f"backward.{name}")
