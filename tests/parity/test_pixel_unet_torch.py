"""The factorised UNet and its gradients against the same network in PyTorch, and PyTorch's autograd."""

from importlib import import_module
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comparison import NETWORK, assert_close
from mindspore import ParameterTuple, Tensor
from small_model import fill

from svd.conditioning.conditioning import Conditioning
from svd.config import VideoDiffusionConfig
from svd.config.pixel_networks import FactorisedAttention, PixelTemporalConfig, PixelUNetConfig
from svd.data.video_dataset import Clip
from svd.diffusion.ancestral import cosine_sigma, log_snr_v
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.reconstruction import DenoiseWithGradient, with_gradient
from svd.networks.pixel_unet import PixelUNet
from svd.networks.split import Split
from svd.training.tasks.pixels import PixelObjective

SCRIPTS = Path(__file__).parents[2] / "scripts"
CONFIG = PixelUNetConfig(1, 32, [1, 2], 1, [2], num_head_channels=16, embedding_networks=1)
SMALL = PixelUNetConfig(1, 32, [1], 1, [1], num_head_channels=16, embedding_networks=1)
"""Without a ladder, for graphs of gradients."""
OVER_FRAMES = FactorisedAttention(distance=3)
RNG = np.random.default_rng(0)
IMAGES = 2
X = RNG.standard_normal((2, 5, 1, 8, 8)).astype(np.float32)
GRADIENTS = 1e-4


@pytest.fixture(scope="module")
def pair():
    """Makes this project's network and PyTorch's, with the same weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        build = import_module("torch_pixel_unet").TorchPixelUNet

    def make(config: PixelUNetConfig) -> tuple[PixelUNet, torch.nn.Module]:
        ours = fill(PixelUNet(config, PixelTemporalConfig(OVER_FRAMES)))
        theirs = build(config, OVER_FRAMES.distance)
        theirs.load_state_dict({p.name: torch.tensor(p.asnumpy()) for p in ours.get_parameters()}, strict=True)
        return ours, theirs

    return make


@pytest.fixture(scope="module")
def networks(pair) -> tuple[PixelUNet, torch.nn.Module]:
    return pair(SMALL)


@pytest.mark.parametrize("images", [0, IMAGES])
def test_the_network_is_the_same(eager, pair, images):
    """Graphs are compared with the same gradients below."""
    networks, c_noise = pair(CONFIG), RNG.uniform(0, 1000, (2, 5)).astype(np.float32)
    independent = np.repeat([[False] * (5 - images) + [True] * images], 2, 0)
    with torch.no_grad():
        reference = networks[1](torch.tensor(X), torch.tensor(c_noise), torch.tensor(independent))
    masked = (None, None, False, Tensor(independent)) if images else ()
    assert_close(networks[0](Tensor(X), Tensor(c_noise), *masked), reference, NETWORK)


def denoised(network: torch.nn.Module, x: torch.Tensor, sigma: float) -> torch.Tensor:
    """v-prediction in the paper's terms."""
    alpha, of_noise = 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2)
    c_noise = torch.full((len(x),), 2000 / np.pi * np.arctan(sigma))
    return alpha * (alpha * x) - of_noise * network(alpha * x, c_noise)


def test_gradients_of_reconstruction_are_pytorchs(mode, networks):
    """Of the first two frames, which are known, and of all at a quarter of the size."""
    ours, theirs = networks
    sigma, frames, low = 1.3, RNG.standard_normal(X.shape), RNG.standard_normal((2, 5, 1, 2, 2))
    known = np.array([1, 1, 0, 0, 0]).reshape(1, 5, 1, 1, 1)
    x = torch.tensor(X, requires_grad=True)
    x0 = denoised(theirs, x, sigma)
    error = ((torch.tensor(frames) - x0) * torch.tensor(known)).square().sum()
    small = F.interpolate(x0.flatten(0, 1), scale_factor=0.25, mode="bilinear").unflatten(0, (2, 5))
    (error + (torch.tensor(low) - small).square().sum()).backward()
    denoiser = Denoiser(ours, log_snr_v(), Split(ours))
    given = [Tensor(array.astype(np.float32)) for array in (frames, known, low)]
    pair = (Conditioning(None), Conditioning(None))
    predict = with_gradient(DenoiseWithGradient(denoiser.cell), denoiser, pair, 1.0, *given)
    ours_x0, gradient = predict(Tensor(X), sigma)
    assert_close(ours_x0, x0, GRADIENTS)
    assert_close(gradient, x.grad, GRADIENTS)


def test_joint_training_has_pytorchs_loss_and_gradients(mode, networks):
    """Clips of three frames and two images, each image with a noise level of its own."""
    ours, theirs = networks
    clips = [Clip(RNG.integers(0, 256, (5, 8, 8, 3), np.uint8), 8.0, 0.0, "") for _ in range(2)]
    model = VideoDiffusionConfig(SMALL, PixelTemporalConfig(OVER_FRAMES))
    named = {f"network.{p.name}": p for p in ours.get_parameters()}
    objective = PixelObjective(ours, model, named, images=IMAGES)
    inputs = objective.inputs(clips, [3, 8])
    frames, noise = (torch.tensor(x.asnumpy()) for x in inputs[:2])
    assert frames.shape == (2, 5, 1, 8, 8) and inputs[3].asnumpy().sum(1).tolist() == [IMAGES] * 2
    sigma = torch.tensor(inputs[2].asnumpy()[0], dtype=torch.float64)
    assert (sigma[:, :3] == sigma[:, :1]).all() and len(sigma.unique()) == 2 * (1 + IMAGES)
    np.testing.assert_allclose(sigma[1], cosine_sigma(2 / np.pi * np.arctan(sigma[1])), rtol=1e-3)
    alpha = (1 / (1 + sigma**2).sqrt())[..., None, None, None]
    of_noise = (1 - alpha**2).sqrt()
    x = (alpha * frames + of_noise * noise).float()
    c_noise = (2000 / np.pi * torch.arctan(sigma)).float()
    theirs.zero_grad()
    predicted = theirs(x, c_noise, torch.tensor(inputs[3].asnumpy()))
    loss = (predicted - (alpha * noise - of_noise * frames)).square().mean()
    loss.backward()
    parameters = ParameterTuple(list(named.values()))
    value, gradients = ms.value_and_grad(objective.loss, None, parameters)(*inputs)
    assert float(value.asnumpy()) == pytest.approx(loss.item(), rel=1e-4)
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    largest = max(gradient.abs().max() for gradient in expected.values())
    for parameter, gradient in zip(parameters, gradients):
        reference = expected[parameter.name].numpy()
        assert np.abs(gradient.asnumpy() - reference).max() < GRADIENTS * float(largest), parameter.name
