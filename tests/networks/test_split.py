"""A network in two: what is constant over the noise levels, and the rest."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from comparison import assert_close
from device import eagerly
from mindspore import Tensor, nn
from small_model import SMALL, fill

from svd.conditioning.conditioning import Conditioning
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.preconditioning import v_scaling
from svd.networks.blocks.svd import svd_unet
from svd.networks.split import Constants, Split

RNG = np.random.default_rng(0)
UNET = replace(SMALL.unet, channel_mult=[1], attention_resolutions=[1])
"""One level: its constants are those of embeddings and transformers, whatever the levels."""


def random(*shape: int) -> Tensor:
    return Tensor(RNG.standard_normal(shape).astype(np.float32))


@cache
def network_and_split(mode: int) -> tuple[nn.Cell, Split]:
    """One for each mode, so that graphs are compiled once."""
    network = fill(svd_unet(UNET))
    return network, Split(network)


@pytest.mark.parametrize(
    "_mode, image_only",
    [(0, True), (1, False), (1, True)],  # the graph with temporal layers is compiled below
    indirect=["_mode"],
    ids=["graph-True", "pynative-False", "pynative-True"],
)
def test_both_halves_are_the_network(mode, image_only):
    """In pynative mode, as which graphs are known to compute by others."""
    network, split = network_and_split(mode)
    inputs = random(2, 1, 16), random(2, 24)
    prepared = split.prepare(inputs, 3, image_only)
    for noise_level in (0.5, -1.0):
        x, c_noise = random(2, 3, 8, 4, 6), Tensor(np.full(2, noise_level, np.float32))
        result = split.evaluate(x, c_noise, *prepared)
        with eagerly():
            assert_close(result, network(x, c_noise, *inputs, image_only), 5e-6)


def test_constants_are_computed_once_for_each_conditioning(mode, monkeypatch):
    """And the results are those of the network; of another conditioning, nothing is taken over."""
    calls, constants = [], Constants.__call__

    def spy(self, context, *others):
        calls.append(context)
        return constants(self, context, *others)

    monkeypatch.setattr(Constants, "__call__", spy)
    network, split = network_and_split(mode)
    in_two, whole = Denoiser(network, v_scaling(), split), Denoiser(network, v_scaling())
    conditionings = [Conditioning(random(2, 1, 16), random(2, 3, 4, 4, 6), random(2, 24)) for _ in range(2)]
    bound = [in_two.bind(conditioning) for conditioning in conditionings]
    for sigma in (5.0, 0.5):
        for denoise, conditioning in zip(bound, conditionings):
            x = random(2, 3, 4, 4, 6)
            result = denoise(x, sigma)
            with eagerly():
                assert_close(result, whole(x, sigma, conditioning), 5e-6)
    assert [context is c.context for context, c in zip(calls, conditionings)] == [True, True] and len(calls) == 2


def test_another_video_sees_other_weights(eager):
    network = fill(svd_unet(UNET))
    denoiser = Denoiser(network, v_scaling(), Split(network))
    x, conditioning = random(1, 3, 4, 4, 6), Conditioning(random(1, 1, 16), random(1, 3, 4, 4, 6), random(1, 24))
    before = denoiser(x, 1.0, conditioning).asnumpy()
    for parameter in network.get_parameters():
        parameter.set_data(Tensor(1.1 * parameter.asnumpy()))
    after = denoiser(x, 1.0, conditioning)
    assert_close(after, Denoiser(network, v_scaling())(x, 1.0, conditioning), 2e-6)
    assert np.abs(after.asnumpy() - before).max() > 1e-3
