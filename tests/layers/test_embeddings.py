"""Sinusoids of noise levels and frame positions."""

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor
from small_model import fill

from svd.layers.embeddings import EmbeddingMLP, frequencies, sinusoidal_embedding


@pytest.mark.parametrize("dim", [2, 8, 320])
def test_cosines_then_sines_of_periods_up_to_10000(dim):
    x = np.array([[0, 1, 2.5], [-1.6, 0.25 * np.log(700), 13]])
    angles = x[..., None] * np.exp(-np.log(10000) * 2 * np.arange(dim // 2) / dim)
    result = sinusoidal_embedding(Tensor(x, ms.float32), Tensor(frequencies(dim), ms.float32))
    assert result.dtype == ms.float32
    assert_close(result, np.concatenate([np.cos(angles), np.sin(angles)], -1), 5e-6)


def test_embedding_mlp(mode):
    layer = fill(EmbeddingMLP(6, 8, 4))
    x = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    w1, b1, w2, b2 = (parameter.asnumpy() for parameter in layer.get_parameters())
    hidden = x @ w1.T + b1
    assert_close(layer(Tensor(x)), hidden / (1 + np.exp(-hidden)) @ w2.T + b2, 2e-6)
