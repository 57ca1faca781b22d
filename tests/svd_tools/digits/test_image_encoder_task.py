"""The task of the image encoder: its loss, and what it is given."""

import numpy as np
import pytest
from comparison import assert_close
from device import DEVICE
from mindspore import Tensor, nn

from svd import runtime
from svd.data.moving_digits import MovingDigits
from svd_tools.digits.image_encoder import ClassificationLoss, ClassificationObjective


class Same(nn.Cell):
    def construct(self, x):
        return x


@pytest.mark.parametrize("mode", [0, 1])
def test_the_loss_of_the_image_encoder(mode):
    runtime.setup(DEVICE, mode)
    loss = ClassificationLoss(Same(), 16)
    directions = loss.directions.asnumpy()
    np.testing.assert_allclose(directions.T @ directions, 16 * np.eye(10), atol=1e-4)
    rng = np.random.default_rng(1)
    embeddings, present = rng.standard_normal((4, 16)).astype(np.float32), rng.integers(0, 2, (4, 10))
    probability = 1 / (1 + np.exp(-embeddings.astype(np.float64) @ directions))
    expected = -np.mean(np.where(present, np.log(probability), np.log(1 - probability)))
    found = loss(Tensor(embeddings), Tensor(present.astype(np.float32)))
    assert_close(found, np.float32(expected), 1e-5)


def test_the_image_encoder_is_told_which_digits_are_there():
    clips = [MovingDigits(frames=1).load(index) for index in range(6)]
    images, present = (t.asnumpy() for t in ClassificationObjective(Same(), 28, 16, {}).inputs(clips, list(range(6))))
    assert images.shape == (6, 3, 28, 28)
    assert [set(np.flatnonzero(row)) for row in present] == [set(clip.digits) for clip in clips]
