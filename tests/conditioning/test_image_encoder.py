"""CLIP's image tower: what the embedding depends on."""

import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters
from small_model import SMALL, fill

from svd.conditioning.image_encoder import ImageEncoder
from svd.config import ImageEncoderConfig

PATCH = SMALL.image_encoder.patch_size
PIXELS = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def encoders() -> dict[int, ImageEncoder]:
    return {mode: fill(ImageEncoder(SMALL.image_encoder)) for mode in (0, 1)}


@pytest.fixture
def encoder(mode, encoders) -> ImageEncoder:
    return encoders[mode]


def test_images_are_independent(encoder):
    together = encoder(Tensor(PIXELS))
    assert_close(together, np.concatenate([encoder(Tensor(PIXELS[i : i + 1])).asnumpy() for i in (0, 1)]))
    assert np.abs(together[0].asnumpy() - together[1].asnumpy()).max() > 0.1


def test_position_embeddings_follow_the_patches_row_by_row(encoder):
    """Left and right half change places: the embedding changes, until the positions change places too."""
    rolled = np.roll(PIXELS, PATCH, 3)
    result = encoder(Tensor(PIXELS)).asnumpy()
    assert np.abs(encoder(Tensor(rolled)).asnumpy() - result).max() > 0.01
    positions = encoder.position_embedding.asnumpy().copy()
    encoder.position_embedding.set_data(Tensor(positions[[0, 2, 1, 4, 3]]))  # the first is the class token's
    result_of_both = encoder(Tensor(rolled))
    encoder.position_embedding.set_data(Tensor(positions))
    assert_close(result_of_both, result)


def test_the_embedding_is_not_normalised(encoder):
    """It is linear in the projection."""
    result = encoder(Tensor(PIXELS)).asnumpy()
    weight = encoder.projection.weight.asnumpy().copy()
    encoder.projection.weight.set_data(Tensor(2 * weight))
    doubled = encoder(Tensor(PIXELS))
    encoder.projection.weight.set_data(Tensor(weight))
    assert_close(doubled, 2 * result)


def test_published_size():
    """OpenCLIP's ViT-H/14, image tower."""
    with no_init_parameters():
        parameters = list(ImageEncoder(ImageEncoderConfig()).get_parameters())
    assert sum(int(np.prod(parameter.shape)) for parameter in parameters) == 632_076_800
