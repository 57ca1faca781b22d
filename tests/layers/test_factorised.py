"""Attention over frames against the formulas of its papers, and the buckets of distances."""

import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor
from small_model import fill

from svd.config.pixel_networks import FactorisedAttention
from svd.layers.factorised import TimeAttention, distance_buckets, hidden_keys

HEADS, D, FRAMES, PIXELS = 4, 8, 5, 3
RNG = np.random.default_rng(0)
QKV = RNG.standard_normal((2, PIXELS, FRAMES, 3 * HEADS * D)).astype(np.float32)
INDEPENDENT = np.array([[False, True, False, False, True], [False] * 5])


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def attention(layer: TimeAttention, qkv: np.ndarray, independent: np.ndarray | None = None) -> np.ndarray:
    """softmax((q (k + a)^T) / sqrt(d)) (v + b), one query at a time: arXiv 1803.02155, equations 3 and 4."""
    q, k, v = np.moveaxis(qkv.reshape(2, PIXELS, FRAMES, HEADS, 3, D), 4, 0).astype(np.float64)
    tables = {name: p.asnumpy().astype(np.float64) for name, p in layer.parameters_dict().items()}
    y = np.zeros_like(q)
    for clip, pixel, i, head in np.ndindex(q.shape[:4]):
        seen = [j for j in range(FRAMES) if independent is None or i == j or not independent[clip, [i, j]].any()]
        rows = np.clip(np.array(seen) - i, -layer.distance, layer.distance) + layer.distance
        keys, values = k[clip, pixel, seen, head], v[clip, pixel, seen, head]
        if layer.relative:
            keys, values = keys + tables["keys"][head, rows], values + tables["values"][head, rows]
        scores = keys @ q[clip, pixel, i, head] / np.sqrt(D)
        if not layer.relative:
            scores += tables["bias"][distance_buckets(layer.distance)[rows], head]
        y[clip, pixel, i, head] = softmax(scores) @ values
    return y.reshape(2, PIXELS, FRAMES, -1)


@pytest.mark.parametrize("positions", ["relative", "bucketed"])
def test_attention_over_frames_is_the_papers(eager, positions):
    """With fewer distances than frames."""
    config = FactorisedAttention(positions=positions, distance=3 if positions == "relative" else 12)
    layer = fill(TimeAttention(HEADS * D, HEADS, config))
    y = layer.attend(Tensor(QKV), *layer.constants(None, FRAMES))
    assert_close(y, attention(layer, QKV))
    y = layer.attend(Tensor(QKV), *layer.constants(Tensor(INDEPENDENT), FRAMES))
    assert_close(y, attention(layer, QKV, INDEPENDENT))


def test_positions_matter(eager):
    for positions in ("relative", "bucketed"):
        layer = fill(TimeAttention(HEADS * D, HEADS, FactorisedAttention(positions=positions)))
        x = Tensor(RNG.standard_normal((1, FRAMES, HEADS * D, 1, PIXELS)).astype(np.float32))
        order = [2, 0, 1, 4, 3]
        y, constants = layer(x, None, *layer.constants(None, FRAMES)).asnumpy(), layer.constants(None, FRAMES)
        assert np.abs(layer(x[:, order], None, *constants).asnumpy() - y[:, order]).max() > 0.01


def test_independent_frames_see_themselves_alone(eager):
    hidden = hidden_keys(Tensor([[False, True, False]])).asnumpy()
    np.testing.assert_array_equal(hidden[0], [[0, 1, 0], [1, 0, 1], [0, 1, 0]])


def test_buckets_are_logarithmic_from_eight_frames_on():
    buckets = distance_buckets(32)
    behind, ahead = buckets[31::-1], buckets[33:]  # of distances 1 to 32
    np.testing.assert_array_equal(behind[:7], range(1, 8))
    np.testing.assert_array_equal(ahead, behind + 16)
    for distance in (1, 8, 9):
        few = distance_buckets(distance)
        np.testing.assert_array_equal(few[distance::-1], [*range(min(distance, 8) + 1), 15][: distance + 1])
    assert buckets[32] == 0 and behind[-1] == 15 and (np.diff(behind) >= 0).all()
