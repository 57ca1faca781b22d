"""CLIP's text tower: what a token's embedding depends on."""

from dataclasses import replace

import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters
from small_model import fill
from small_text import SMALL_TEXT

from svd.conditioning.text_encoder import TextEncoder
from svd.config import TextEncoderConfig

TOKENS = np.random.default_rng(0).integers(0, SMALL_TEXT.vocabulary, (2, SMALL_TEXT.tokens)).astype(np.int32)


@pytest.fixture(scope="module")
def encoders() -> dict[int, TextEncoder]:
    return {mode: fill(TextEncoder(SMALL_TEXT)) for mode in (0, 1)}


@pytest.fixture
def encoder(mode, encoders) -> TextEncoder:
    return encoders[mode]


def test_prompts_are_independent(encoder):
    together = encoder(Tensor(TOKENS)).asnumpy()
    assert together.shape == (2, 12, 16) and together.dtype == np.float32
    assert_close(together, np.concatenate([encoder(Tensor(TOKENS[i : i + 1])).asnumpy() for i in (0, 1)]))


def test_tokens_see_those_before_them(encoder):
    result, changed = encoder(Tensor(TOKENS)).asnumpy(), TOKENS.copy()
    changed[:, 5] = (changed[:, 5] + 1) % SMALL_TEXT.vocabulary
    differences = np.abs(encoder(Tensor(changed)).asnumpy() - result).max((0, 2))
    assert differences[:5].max() < 1e-6 and differences[5:].min() > 1e-3


def test_tokens_have_positions(encoder):
    """Equal tokens have embeddings of their own."""
    result = encoder(Tensor(np.full((1, 12), 7, np.int32))).asnumpy()
    assert np.abs(np.diff(result, axis=1)).max(2).min() > 0.01


def test_activations_differ(eager):
    results = [
        fill(TextEncoder(replace(SMALL_TEXT, activation=activation)))(Tensor(TOKENS)).asnumpy()
        for activation in ("gelu", "quick_gelu")
    ]
    assert 1e-3 < np.abs(results[1] - results[0]).max() < 0.3


VIT_H = TextEncoderConfig(width=1024, layers=23, heads=16, activation="gelu", padding="zero")


@pytest.mark.parametrize("config, parameters", [(TextEncoderConfig(), 123_060_480), (VIT_H, 340_387_840)])
def test_published_sizes(config, parameters):
    """Of ViT-L/14, and of ViT-H/14 without its last layer."""
    with no_init_parameters():
        encoder = TextEncoder(config)
    assert sum(int(np.prod(parameter.shape)) for parameter in encoder.get_parameters()) == parameters
