"""What holds for the whole pipeline whatever its weights are."""

import numpy as np
import pytest
from comparison import CHAIN, NETWORK, assert_close
from mindspore import Tensor

from svd.diffusion.guidance import guided
from svd.diffusion.samplers import euler
from svd.diffusion.schedules import karras

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 1, (2, 16, 24, 3)).astype(np.float32)
NOISE = RNG.standard_normal((2, 3, 4, 8, 12)).astype(np.float32)
AUG_NOISE = RNG.standard_normal((2, 3, 16, 24)).astype(np.float32)


@pytest.fixture
def _mode() -> int:
    """Pynative mode: graphs are compared with diffusers' whole pipeline (parity/test_diffusers.py), guidance too."""
    return 1


def test_two_clips_equal_two_batches_of_one(small_pipe):
    """With guidance, whose two branches share the batch axis with the clips."""
    options = {"output": "float", "decode_chunk_size": 2, "progress": False}
    together = small_pipe(IMAGES, noise=NOISE, aug_noise=AUG_NOISE, **options)
    for i in (0, 1):
        alone = small_pipe(IMAGES[i], noise=NOISE[i : i + 1], aug_noise=AUG_NOISE[i : i + 1], **options)
        assert_close(together[i], alone, CHAIN)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_a_seed_gives_every_clip_the_noise_that_it_gets_alone(small_pipe):
    options = {"seed": 5, "output": "latents", "progress": False}
    together = small_pipe(list(IMAGES), **options)
    assert_close(together[1], small_pipe(IMAGES[1], **options), CHAIN)


@pytest.fixture
def pair(small_pipe):
    return small_pipe.conditioner.pair(2 * IMAGES[:1].transpose(0, 3, 1, 2) - 1, 3, 7, 127, 0.02, AUG_NOISE[:1])


def test_guidance_1_equals_conditional_and_0_unconditional(small_pipe, pair):
    """Frame by frame: scales 1, 0 and 2.5 run as one batch of both branches."""
    denoiser, x = small_pipe.denoiser, Tensor(NOISE[:1])
    result = guided(denoiser.bind, *pair, [1, 0, 2.5])(x, 1.5).asnumpy()
    with_image, without = (denoiser(x, 1.5, conditioning).asnumpy() for conditioning in pair)
    assert_close(result[:, 0], with_image[:, 0], NETWORK)
    assert_close(result[:, 1], without[:, 1], NETWORK)
    assert_close(result[:, 2], (without + 2.5 * (with_image - without))[:, 2], NETWORK)
    assert np.abs(with_image - without).max() > 0.1


def test_a_pipeline_with_guidance_1_samples_the_conditional_model(small_pipe, pair):
    result = small_pipe(
        IMAGES[0], noise=NOISE[:1], aug_noise=AUG_NOISE[:1], guidance=[1, 1], output="latents", progress=False
    )
    sigmas = karras(2)
    start = Tensor((NOISE[:1] * np.sqrt(1 + sigmas[0] ** 2)).astype(np.float32))
    expected = euler(small_pipe.denoiser.bind(pair[0]), start, sigmas)
    assert_close(result, expected[0], CHAIN)
