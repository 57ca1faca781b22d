"""Residual blocks in space and time."""

import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor
from small_model import fill

from svd.layers.resblock import ResBlock, VideoResBlock

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture
def block(mode) -> VideoResBlock:
    return fill(VideoResBlock(32, 64, emb_dim=8))


def test_two_clips_equal_two_batches_of_one(block):
    """An embedding that was mixed up between clips and frames would show."""
    x, emb = random(2, 3, 32, 4, 4), random(2, 3, 8)
    together = block(Tensor(x), Tensor(emb), Tensor(emb))
    assert_close(together, np.concatenate([block(*(Tensor(a[i : i + 1]) for a in (x, emb, emb))) for i in (0, 1)]))


def test_a_frame_is_seen_by_those_that_two_convolutions_reach(block):
    """Two kernels of 3 reach two frames; the others change by their shared normalisation only."""
    x, emb = random(1, 9, 32, 4, 4), random(1, 9, 8)
    changed = x.copy()
    changed[:, 0] = 3 * random(32, 4, 4)
    before, after = (block(Tensor(frames), Tensor(emb), Tensor(emb)).asnumpy() for frames in (x, changed))
    change = np.abs(before - after)
    per_frame = change.max((0, 2, 3, 4))
    assert per_frame[:3].min() > 2 * per_frame[3:].max() > 0


def test_image_only_is_the_spatial_block(block):
    x, emb = random(2, 3, 32, 4, 4), random(2, 3, 8)
    frames = block.spatial(Tensor(x.reshape(6, 32, 4, 4)), Tensor(emb.reshape(6, 1, 8)))
    assert_close(block(Tensor(x), Tensor(emb), Tensor(emb), True), frames.asnumpy().reshape(2, 3, 64, 4, 4))


def test_without_an_embedding_and_a_shortcut(mode):
    """The identity when the second convolution gives nothing: the residual is left."""
    block = fill(ResBlock(32, 32))
    for parameter in block.conv2.get_parameters():
        parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
    x = random(2, 32, 4, 4)
    np.testing.assert_array_equal(block(Tensor(x)).asnumpy(), x)


def test_the_embedding_is_added_between_the_convolutions(mode):
    """A constant per channel, which the second normalisation does not take out (its groups are single channels)."""
    block = fill(ResBlock(32, 64, emb_dim=8))
    x = random(2, 32, 4, 4)
    first, second = (block(Tensor(x), Tensor(random(2, 1, 8))).asnumpy() for _ in range(2))
    assert np.abs(first - second).max() > 0.1
