"""The network over the noise levels of one video."""

import numpy as np
from comparison import assert_close
from mindspore import Tensor
from small_model import SMALL, fill

from svd.networks import one_video
from svd.networks.one_video import PerVideo
from svd.networks.video_unet import VideoUNet

RNG = np.random.default_rng(0)


def random(*shape: int) -> Tensor:
    return Tensor(RNG.standard_normal(shape).astype(np.float32))


def test_what_is_constant_is_computed_once_for_each_conditioning(mode, monkeypatch):
    """And the results are those of the network; of another conditioning, nothing is taken over."""
    calls, constants = [], one_video._Constants.__call__

    def spy(self, context, *others):
        calls.append(context)
        return constants(self, context, *others)

    monkeypatch.setattr(one_video._Constants, "__call__", spy)
    network = fill(VideoUNet(SMALL.unet)).set_train(False)
    evaluate = PerVideo(network)()
    told = [(random(2, 1, 16), random(2, 24)) for _ in range(2)]
    for noise_level in (0.5, -1.0):
        for context, vector in told:
            x, c_noise = random(2, 3, 8, 4, 6), Tensor(np.full(2, noise_level, np.float32))
            assert_close(evaluate(x, c_noise, context, vector), network(x, c_noise, context, vector), 2e-6)
    assert [context is known for context, (known, _) in zip(calls, told)] == [True, True] and len(calls) == 2


def test_another_video_sees_other_weights(eager):
    network = fill(VideoUNet(SMALL.unet)).set_train(False)
    per_video = PerVideo(network)
    inputs = random(1, 3, 8, 4, 6), random(1), random(1, 1, 16), random(1, 24)
    before = per_video()(*inputs).asnumpy()
    for parameter in network.get_parameters():
        parameter.set_data(Tensor(1.1 * parameter.asnumpy()))
    after = per_video()(*inputs)
    assert_close(after, network(*inputs), 2e-6)
    assert np.abs(after.asnumpy() - before).max() > 1e-3
