"""Temporal attention of forward and backward clips, against its formula and within a transformer block."""

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from device import DEVICE
from mindspore import Tensor, nn
from small_model import fill

from svd.checkpoints.tensor_header import CheckpointError
from svd.layers.attention import TransformerBlock
from svd.layers.reversal import pair_attention
from svd.placement import place

DIM, HEADS, FRAMES, PIXELS = 32, 2, 5, 6


class Network(nn.Cell):
    """A spatial block, which stays as it is, and a temporal one."""

    def __init__(self):
        super().__init__()
        self.spatial = TransformerBlock(DIM, HEADS, 8)
        self.temporal = TransformerBlock(DIM, HEADS, 8, temporal=True)


def difference() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(4)
    shapes = {"to_v.weight": (DIM, DIM), "to_out.weight": (DIM, DIM), "to_out.bias": (DIM,)}
    return {f"temporal.attn1.{n}": (0.2 * generator.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}


def network(changes: dict[str, np.ndarray] | None = None) -> Network:
    built = place(fill(Network(), seed=1), DEVICE, ms.float32)
    if changes is not None:
        pair_attention(built, changes)
    return built


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_attention_takes_the_forward_probabilities_turned(eager):
    """Written out: values and output of the backward clip's own, probabilities of the forward one rotated."""
    h = np.random.default_rng(0).standard_normal((2 * PIXELS, FRAMES, DIM)).astype(np.float32)
    changes, plain = difference(), {p.name: p.asnumpy() for p in network().get_parameters()}
    w = {name.removeprefix("temporal.attn1."): value for name, value in plain.items() if "temporal.attn1." in name}
    other = {name.removeprefix("temporal.attn1."): plain[name] + value for name, value in changes.items()}

    def split(x):  # [n t c] -> [n heads t d]
        return x.reshape(*x.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)

    forward, backward = h[:PIXELS], h[PIXELS:]
    q, k = (split(forward @ w[f"{name}.weight"].T) for name in ("to_q", "to_k"))
    probabilities = softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(DIM // HEADS))
    expected = []
    for x, p, own in ((forward, probabilities, w), (backward, probabilities[..., ::-1, ::-1], other)):
        y = (p @ split(x @ own["to_v.weight"].T)).transpose(0, 2, 1, 3).reshape(x.shape)
        expected.append(y @ own["to_out.weight"].T + own["to_out.bias"])
    attention = network(changes).temporal.attn1
    assert_close(attention.to_out(attention.attend(Tensor(h))), np.concatenate(expected))


@pytest.mark.parametrize("tokens", [1, 3])
def test_forward_clips_and_spatial_blocks_are_as_without(tokens, mode):
    """In both modes, with text of one token, and of several."""
    generator = np.random.default_rng(2)
    x = Tensor(generator.standard_normal((4, PIXELS, FRAMES, DIM)).astype(np.float32))
    text = Tensor(generator.standard_normal((4, tokens, 8)).astype(np.float32))
    original, paired = network(), network(difference())
    assert_close(
        paired.temporal(x, paired.temporal.constant(text))[:2],
        original.temporal(x[:2], original.temporal.constant(text[:2])),
    )
    assert_close(paired.spatial(x, paired.spatial.constant(text)), original.spatial(x, original.spatial.constant(text)))


def test_what_is_no_whole_difference_is_refused(eager):
    changes = difference()
    for wrong, what in (
        ({"temporal.attn1.to_v.weight": np.zeros((3, 3), np.float32)}, r"has \[3, 3\] for temporal.attn1.to_v.weight"),
        (
            {"spatial.attn1.to_v.weight": changes["temporal.attn1.to_v.weight"]},
            "changes spatial.attn1.to_v.weight, which",
        ),
    ):
        with pytest.raises(CheckpointError, match=what):
            network(changes | wrong)
    del changes["temporal.attn1.to_out.bias"]
    with pytest.raises(CheckpointError, match=r"has nothing for temporal.attn1.to_out.bias \[32\]"):
        network(changes)
