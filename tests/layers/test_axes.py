"""Folding frames into the batch."""

import numpy as np
from mindspore import Tensor, ops

from svd.layers.axes import fold_frames, per_image

X = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 6)).astype(np.float32)  # [b t c h w]


def test_frames_are_folded_clip_by_clip(mode):
    np.testing.assert_array_equal(fold_frames(Tensor(X)).asnumpy(), X.reshape(6, 4, 5, 6))


def test_a_layer_over_images_sees_every_image_by_itself(mode):
    """Of clips and of single images; the layer here makes a channel and a row of each image's sum over the others."""

    def layer(images):
        return ops.expand_dims(images.sum((1, 2)), 1).expand_dims(1)

    for x in (X, X[0]):
        result = per_image(layer, Tensor(x)).asnumpy()
        np.testing.assert_allclose(result[..., 0, 0, :], x.sum((-3, -2)), rtol=1e-5, atol=1e-5)
