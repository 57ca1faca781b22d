"""Layers over frames: what they see of other frames and pixels, and where they start."""

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor, nn, ops
from small_model import fill

from svd.layers.blend import Blend, Clamp, residual_blend
from svd.layers.embeddings import frequencies
from svd.layers.marks import zero_init_names
from svd.layers.temporal import FrameBlock, FrameConvolutions, FrameTransformer, RelativePositions, frame_positions

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6, 32)).astype(np.float32)  # [b p t c]
TEXT = RNG.standard_normal((2, 5, 16)).astype(np.float32)


class Limited(nn.Cell):
    """Attention over frames up to a distance of one."""

    def __init__(self):
        super().__init__()
        self.block = FrameBlock(32, 4, distance=1)

    def construct(self, x: Tensor) -> Tensor:
        return self.block(x, self.block.positions(x.shape[2]))


def test_frames_beyond_the_distance_do_not_count(mode):
    """So the middle of a video is the same whatever its length."""
    layer = fill(Limited())
    result = layer(Tensor(X)).asnumpy()
    changed = X.copy()
    changed[:, :, 4] *= -1
    difference = np.abs(layer(Tensor(changed)).asnumpy() - result).max((0, 1, 3))
    assert difference[:3].max() < 1e-6 and difference[3:].min() > 0.01
    assert_close(layer(Tensor(X[:, :, 1:4])).asnumpy()[:, :, 1], result[:, :, 2])


def test_relative_positions_are_learned_for_each_head_and_distance(mode):
    positions = fill(RelativePositions(heads=2, distance=2))
    learned, result = positions.bias.asnumpy(), positions(5).asnumpy()
    assert result.shape == (1, 2, 5, 5)
    for query in range(5):
        for key in range(5):
            if abs(key - query) <= 2:
                np.testing.assert_allclose(result[0, :, query, key], learned[:, key - query + 2], rtol=1e-6)
            else:
                assert (result[0, :, query, key] < -1e29).all()


def test_positions_are_pairs_of_sine_and_cosine(mode):
    result = frame_positions(7, Tensor(frequencies(8), ms.float32)).asnumpy()
    angles = np.arange(7)[:, None] * 10000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(result[:, ::2], np.sin(angles), atol=1e-6)
    np.testing.assert_allclose(result[:, 1::2], np.cos(angles), atol=1e-6)


def test_pixels_are_exchangeable_and_frames_only_without_positions(mode):
    block, positions = fill(FrameBlock(32, 4, twice=True)), frame_positions(6, Tensor(frequencies(32), ms.float32))
    pixels, frames = [2, 0, 3, 1], [3, 5, 0, 1, 4, 2]
    result = block(Tensor(X), positions).asnumpy()
    assert_close(block(Tensor(X[:, pixels]), positions), result[:, pixels])
    assert np.abs(block(Tensor(X[:, :, frames]), positions).asnumpy() - result[:, :, frames]).max() > 0.01
    without = block(Tensor(X)).asnumpy()
    assert_close(block(Tensor(X[:, :, frames])), without[:, :, frames])


def test_text_counts_for_its_own_clip(mode):
    block = fill(FrameBlock(32, 4, context_dim=16))
    result = block(Tensor(X), None, Tensor(TEXT)).asnumpy()
    changed = block(Tensor(X), None, Tensor(TEXT[[1, 1]])).asnumpy()
    assert np.abs(changed[0] - result[0]).max() > 0.01
    assert_close(changed[1], result[1])


def test_more_frames_than_positions_are_refused(mode):
    layer = FrameTransformer(32, 32, 4, pooled=True, max_frames=3)
    (positions,) = layer.constants(Tensor(TEXT), 3)
    assert positions.shape == (3, 32)
    with pytest.raises(ValueError, match="4 frames, but there are positions for 3"):
        layer.constants(Tensor(TEXT), 4)


@pytest.mark.parametrize("layer", [FrameTransformer(32, 64, 4, pooled=False), FrameConvolutions(32, 4, residual=True)])
def test_residual_layers_start_as_the_identity(eager, layer):
    zero = zero_init_names(fill(layer))
    for parameter in layer.get_parameters():
        if parameter.name in zero:
            parameter.set_data(ops.zeros_like(parameter))
    x = Tensor(RNG.standard_normal((2, 3, 32, 4, 2)).astype(np.float32))
    assert zero and np.array_equal(layer(x).asnumpy(), x.asnumpy())


class Weighted(nn.Cell):
    """A sum whose derivative by what is clamped is given."""

    def __init__(self):
        super().__init__()
        self.clamp = Clamp()

    def construct(self, x: Tensor, derivative: Tensor) -> Tensor:
        return ops.reduce_sum(self.clamp(x) * derivative)


def test_a_clamped_alpha_is_not_stuck(mode):
    """Descent leads it back inside, but not further outside."""
    x = np.array([0.5, 0.5, 1, 1, 1.5, 1.5, 0, 0, -2, -2], np.float32)
    derivative = np.array([1, -1] * 5, np.float32)
    expected = np.array([1, -1, 1, 0, 1, 0, 0, -1, 0, -1], np.float32)
    value, slope = ms.value_and_grad(Weighted())(Tensor(x), Tensor(derivative))
    assert float(value) == np.sum(np.clip(x, 0, 1) * derivative)
    assert slope.asnumpy().tolist() == expected.tolist()


def test_a_clamped_blend_is_all_space_at_1_and_all_time_at_0(mode):
    spatial, temporal = (Tensor(RNG.standard_normal((2, 3)).astype(np.float32)) for _ in range(2))
    blend = Blend(clamped=True)
    for alpha, expected in ((1, spatial), (1.7, spatial), (0, temporal), (-0.3, temporal)):
        blend.alpha.set_data(Tensor([alpha], ms.float32))
        assert np.array_equal(blend(spatial, temporal).asnumpy(), expected.asnumpy())
    assert zero_init_names(residual_blend(clamped=True)) == {"alpha"}
    assert zero_init_names(residual_blend(clamped=False)) == set()
