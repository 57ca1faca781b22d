"""The conditioning of a video: which image, which noise, which numbers, in which order."""

from dataclasses import replace

import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor

from svd.conditioning.clip_preprocess import clip_preprocess
from svd.conditioning.conditioner import Conditioner
from svd.conditioning.conditioning import Conditioning

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (2, 3, 8, 12)).astype(np.float32)
AUG_NOISE = RNG.standard_normal(IMAGES.shape).astype(np.float32)
LATENT_CHANNELS, EMBEDDING = 3, 5


def encode_image(pixels: Tensor) -> Tensor:
    """A stand-in for CLIP: [b 3 s s] -> [b d], the first pixels."""
    return pixels.reshape(pixels.shape[0], -1)[:, :EMBEDDING]


def encode(images: Tensor) -> Tensor:
    """A stand-in for the encoder: the pixels are the mean, twice them the log-variance."""
    x = images.asnumpy()
    return Tensor(np.concatenate([x, 2 * x], 1))


@pytest.fixture
def conditioner() -> Conditioner:
    return Conditioner(encode_image, encode, image_size=4, vector_dim=24)


def sinusoids(number: float) -> np.ndarray:
    """[8]: cosines, then sines, of periods up to 10,000."""
    angles = number / 10000.0 ** (np.arange(4) / 4)
    return np.concatenate([np.cos(angles), np.sin(angles)])


def test_the_numbers_stand_in_the_order_fps_motion_augmentation(conditioner):
    """The network is given fps - 1, as in training."""
    vector = conditioner(IMAGES, 3, 7, 127, 0.02, AUG_NOISE).vector
    expected = np.concatenate([sinusoids(6), sinusoids(127), sinusoids(0.02)])
    assert_close(vector, np.stack([expected] * 2), 1e-6)


def test_each_clip_may_have_numbers_of_its_own(conditioner):
    """As a training batch has; a batch is what its clips are alone."""
    numbers = np.array([[7, 25], [127, 3.5], [0.02, 0.3]])
    together = conditioner(IMAGES, 3, *numbers, AUG_NOISE)
    for i in (0, 1):
        alone = conditioner(IMAGES[i : i + 1], 3, *numbers[:, i], AUG_NOISE[i : i + 1])
        for name in ("context", "concat", "vector"):
            assert_close(getattr(together, name)[i : i + 1], getattr(alone, name), 1e-6)


def test_the_latents_are_of_the_noisy_image_and_the_same_for_all_frames(conditioner):
    """The mode (the first half of the moments), not scaled; the strength is a standard deviation."""
    concat = conditioner(IMAGES, 5, 7, 127, [0.1, 0.5], AUG_NOISE).concat
    noisy = IMAGES + np.reshape([0.1, 0.5], (2, 1, 1, 1)) * AUG_NOISE
    assert_close(concat, np.stack([noisy] * 5, 1), 1e-6)


def test_the_embedding_is_of_the_clean_image_as_one_token(conditioner):
    context = conditioner(IMAGES, 5, 7, 127, 0.5, AUG_NOISE).context
    expected = clip_preprocess(IMAGES, 4).reshape(2, -1)[:, None, :EMBEDDING]
    assert_close(context, expected, 1e-6)


def test_without_the_image_the_numbers_stay(conditioner):
    cond, uncond = conditioner.pair(IMAGES, 5, 7, 127, 0.5, AUG_NOISE)
    assert cond.context.asnumpy().any() and cond.concat.asnumpy().any()
    assert uncond.context.shape == cond.context.shape and not uncond.context.asnumpy().any()
    assert uncond.concat.shape == cond.concat.shape and not uncond.concat.asnumpy().any()
    np.testing.assert_array_equal(uncond.vector.asnumpy(), cond.vector.asnumpy())


def test_records_are_stacked_in_order():
    first, second = (Conditioning(*(Tensor(np.full((2, 3), 10 * i + j, np.float32)) for j in range(3))) for i in (1, 2))
    both = first.stack(second)
    for j, tensor in enumerate((both.context, both.concat, both.vector)):
        np.testing.assert_array_equal(tensor.asnumpy()[:, 0], [10 + j, 10 + j, 20 + j, 20 + j])


def test_records_that_are_stacked_have_the_same_fields():
    text = Conditioning(Tensor(np.ones((1, 7, 3), np.float32)))
    both = text.stack(text)
    assert both.context.shape == (2, 7, 3) and both.concat is None and both.vector is None
    for pair in ((text, replace(text, vector=text.context)), (replace(text, vector=text.context), text)):
        with pytest.raises(TypeError):
            pair[0].stack(pair[1])
