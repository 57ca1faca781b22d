"""Frames given to temporal layers: what they change, and that without them nothing is changed."""

import numpy as np
import pytest
from mindspore import Tensor, ops
from small_model import fill
from test_video_blocks import FPS, TEXT, TIMESTEPS, config_of

from svd.conditioning.given_frames import FramesConditioner
from svd.config import ConfigError, TemporalConfig, VideoLDMLayers
from svd.initialization import initial_value
from svd.layers.marks import temporal_parameters, zero_init_names
from svd.networks.blocks.video_ldm import video_unet
from svd.networks.split import Split

RNG = np.random.default_rng(1)
X, LATENTS, NOISE = RNG.standard_normal((3, 2, 5, 4, 4, 6)).astype(np.float32)
MASK = np.array([[1, 1, 0, 0, 0], [1, 0, 0, 0, 1]], np.float32)
SIGMAS = np.array([0.5, 1.0, 2.0])


def network_of(**layers):
    config = config_of("sinusoidal")
    config.temporal = TemporalConfig(video_ldm=VideoLDMLayers(fps=True, **layers))
    return fill(video_unet(config))


@pytest.fixture(scope="module")
def network():
    return network_of(frames=True)


def given(mask: np.ndarray = MASK, level=2, latents: np.ndarray = LATENTS, noise: np.ndarray = NOISE) -> tuple:
    return FramesConditioner(SIGMAS, 32)(latents, mask, level, noise)


def run(network, frames: tuple = ()) -> np.ndarray:
    inputs = (*map(Tensor, (X, TIMESTEPS, TEXT, FPS)), False, None)
    return network(*inputs, *frames).asnumpy()


def test_what_is_given():
    """sqrt(abar) z + sqrt(1 - abar) n of the masked frames, and the mask; levels count the steps of the diffusion."""
    frames, noise = (x.asnumpy() for x in given(level=[0, 2]))
    z, n = LATENTS[1, 4], NOISE[1, 4]  # of the second timestep, sigma 1
    np.testing.assert_allclose(frames[1, 4, :4], (z + n) / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(frames[0, :2, :4], LATENTS[0, :2], rtol=1e-6)
    assert not frames[:, 2, :4].any() and not frames[1, 1].any() and not noise[:, 2].any()
    np.testing.assert_array_equal(frames[:, :, 4], np.broadcast_to(MASK[..., None, None], (2, 5, 4, 6)))
    np.testing.assert_allclose(noise[0, 0, :16], 1)  # cosines of level 0
    np.testing.assert_allclose(noise[1, 0, 0], np.cos(2), rtol=1e-6)


def test_what_is_not_given_does_not_matter():
    hidden = np.where(MASK[..., None, None, None] > 0, LATENTS, np.nan)
    np.testing.assert_array_equal(given(latents=hidden)[0].asnumpy(), given()[0].asnumpy())


def test_without_given_frames_it_is_the_model_without_them(eager, network):
    """Bit for bit, with any weights."""
    plain = network_of()
    weights = network.parameters_dict()
    for parameter in plain.get_parameters():
        parameter.set_data(weights[parameter.name].value())
    expected = run(plain)
    assert np.array_equal(run(network), expected)
    assert np.array_equal(run(network, given(np.zeros_like(MASK))), expected)
    assert np.abs(run(network, given()) - expected).max() > 0.01


def test_given_frames_are_silent_at_first(eager):
    network = network_of(frames=True)
    zero = zero_init_names(network)
    for parameter in temporal_parameters(network):
        parameter.set_data(Tensor(initial_value(parameter.name, parameter.shape, 0, parameter.name in zero)))
    assert np.array_equal(run(network, given()), run(network))
    of_frames = {p.name for p in network.get_parameters() if "frames_proj" in p.name or "given_frames" in p.name}
    assert of_frames <= {p.name for p in temporal_parameters(network)}


def test_clips_and_levels_are_their_own(eager, network):
    """What is given of one clip does not change the other; the level of its noise counts."""
    before = run(network, given())
    for other in (given(MASK * [[1], [0]]), given(level=[2, 3])):
        difference = np.abs(run(network, other) - before).max((1, 2, 3, 4))
        assert difference[0] < 1e-5 and difference[1] > 1e-4


def test_both_halves_are_the_network(eager, network):
    split = Split(network)
    prepared = split.prepare((Tensor(TEXT), Tensor(FPS), None, *given()), 5, False)
    result = split.evaluate(Tensor(X), Tensor(TIMESTEPS), *prepared).asnumpy()
    np.testing.assert_allclose(result, run(network, given()), atol=1e-5)


def test_gradients_reach_what_sees_given_frames(eager, network):
    import mindspore as ms

    parameters = [p for p in network.get_parameters() if "frames" in p.name]
    frames = given()

    def loss() -> Tensor:
        return ops.square(network(*map(Tensor, (X, TIMESTEPS, TEXT, FPS)), False, None, *frames)).mean()

    for parameter, gradient in zip(parameters, ms.grad(loss, None, ms.ParameterTuple(parameters))()):
        assert np.abs(gradient.asnumpy()).max() > 0, parameter.name


@pytest.mark.parametrize("rates", [[2.0], [4.0, 2.0], [0.0, 2.0]])
def test_rates_that_cannot_be(rates):
    with pytest.raises(ConfigError, match="rates must be two frame rates or more, increasing"):
        VideoLDMLayers(rates=rates)
