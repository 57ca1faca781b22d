"""Transformers over images, and over videos."""

import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor
from small_model import fill

from svd.layers.transformer import SpatialTransformer, VideoTransformer

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 32, 2, 3)).astype(np.float32)
CONTEXT = RNG.standard_normal((2, 1, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def transformers() -> dict[int, VideoTransformer]:
    """One for each mode, so that its graphs are compiled once."""
    return {mode: fill(VideoTransformer(32, heads=2, context_dim=8)) for mode in (0, 1)}


@pytest.fixture
def transformer(mode, transformers) -> VideoTransformer:
    return transformers[mode]


def run(
    transformer: VideoTransformer, x: np.ndarray, image_only: bool = False, context: np.ndarray = CONTEXT
) -> Tensor:
    context = Tensor(context)
    return transformer(Tensor(x), *transformer.constants(context, context, x.shape[1]), image_only)


def test_two_clips_equal_two_batches_of_one(transformer):
    together = run(transformer, X)
    alone = [run(transformer, X[i : i + 1], context=CONTEXT[i : i + 1]).asnumpy() for i in (0, 1)]
    assert_close(together, np.concatenate(alone))


def test_frames_have_positions(transformer):
    """The order of the frames matters, unless temporal layers are left out."""
    order = [2, 0, 3, 1]
    for image_only in (False, True):
        result = run(transformer, X, image_only).asnumpy()
        permuted = run(transformer, X[:, order], image_only).asnumpy()
        difference = np.abs(permuted - result[:, order]).max()
        assert difference < 1e-5 if image_only else difference > 0.01


def test_without_positions_the_temporal_branch_does_not_know_the_order(mode):
    transformer = fill(VideoTransformer(32, heads=2, context_dim=8))
    last = transformer.frame_embedding.linear_2
    for parameter in last.get_parameters():
        parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
    order = [2, 0, 3, 1]
    result = run(transformer, X).asnumpy()
    assert_close(run(transformer, X[:, order]), result[:, order])
    changed = X.copy()
    changed[:, 0] += 1 + RNG.standard_normal(X[:, 0].shape)
    other_frames = run(transformer, changed).asnumpy()[:, 1:]
    assert np.abs(other_frames - result[:, 1:]).max() > 0.01  # but frames do see each other


def test_image_only_is_the_transformer_of_an_image_model(transformer):
    """With the weights of the same names."""
    spatial = SpatialTransformer(32, heads=2, context_dim=8)
    values = {parameter.name: parameter for parameter in transformer.get_parameters()}
    for parameter in spatial.get_parameters():
        parameter.set_data(values[parameter.name].value())
    context = Tensor(CONTEXT)
    result = spatial(Tensor(X), *spatial.constants(context, context, X.shape[1]))
    assert_close(result, run(transformer, X, image_only=True), 2e-6)
