"""Discriminators: what they see, and of how many frames."""

import numpy as np
import pytest
from mindspore import Tensor

from svd.networks.discriminator import Discriminators, PatchDiscriminator, least_side


def random_video(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("frames", [2, 3, 7])
def test_any_number_of_frames(eager, frames):
    """Every frame has patches; clips of a batch do not see one another."""
    network = PatchDiscriminator(8, layers=2)
    video = random_video(2, frames, 3, 16, 20)
    both = network(Tensor(video)).asnumpy()
    assert both.shape == (2, frames, 2, 3)
    alone = network(Tensor(video[1:])).asnumpy()
    np.testing.assert_allclose(both[1:], alone, rtol=1e-4, atol=1e-6)


def test_a_temporal_one_sees_motion_and_the_other_does_not(eager):
    """The order of frames is nothing to a discriminator of single ones."""
    video = random_video(1, 4, 3, 12, 12)
    for temporal in (True, False):
        network = PatchDiscriminator(8, layers=1, temporal=temporal)
        there, back = (network(Tensor(np.ascontiguousarray(x))).asnumpy() for x in (video, video[:, ::-1]))
        assert np.allclose(there, back[:, ::-1], atol=1e-5) != temporal


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_least_size_has_one_patch(eager, layers):
    side = least_side(layers)
    network = PatchDiscriminator(8, layers, temporal=False)
    assert network(Tensor(random_video(1, 1, 3, side, side))).shape == (1, 1, 1, 1)


def test_sizes_are_those_of_the_published_ones(eager):
    """Latent diffusion models' of images has 2,765,633 parameters; Open-Sora-Plan's of kernel 3 is of 3-D ones, too."""
    image, clips = (PatchDiscriminator(temporal=temporal) for temporal in (False, True))
    count = [sum(p.size for p in network.get_parameters()) for network in (image, clips)]
    biases = 64 + 1
    norms = 2 * (128 + 256 + 512)
    assert count == [2_765_633, 3 * (2_765_633 - biases - norms) + biases + norms]


def test_initial_weights_follow_from_the_seed(eager):
    """Those of normalisations about 1, the others about 0."""
    a, b, c = (Discriminators("both", 16, 2, seed, length=2) for seed in (1, 1, 2))
    for first, same, other in zip(*(network.get_parameters() for network in (a, b, c))):
        value = first.asnumpy()
        assert np.array_equal(value, same.asnumpy())
        if first.name.endswith("bias"):
            assert not value.any()
        else:
            assert not np.array_equal(value, other.asnumpy())
            assert abs(value.mean() - (value.ndim == 1)) < 0.02 and 0.01 < value.std() < 0.03
    names = [parameter.name for parameter in a.get_parameters()]
    assert len(set(names)) == len(names)


def test_frames_that_are_alone_are_not_of_clips(eager):
    """The temporal discriminator does not see them, that of images does."""
    networks = Discriminators("both", 8, 1, seed=0, length=3, alone=2)
    frames = random_video(10, 3, 12, 12)
    clips, images = networks(Tensor(frames))
    assert clips.shape[:2] == (2, 3) and images.shape[:2] == (1, 10)
    other = frames.copy()
    other[6:] = 0
    changed, changed_images = networks(Tensor(other))
    np.testing.assert_array_equal(clips.asnumpy(), changed.asnumpy())
    assert not np.array_equal(images.asnumpy()[:, 6:], changed_images.asnumpy()[:, 6:])
    np.testing.assert_allclose(
        clips.asnumpy(), networks.clips(Tensor(frames[:6].reshape(2, 3, 3, 12, 12))).asnumpy(), rtol=1e-5
    )
