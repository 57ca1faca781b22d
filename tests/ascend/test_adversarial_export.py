"""The steps of a decoder and of its discriminators in their Ascend form, checked as the UNet's is."""

import mindspore as ms
import pytest
from device import cpu_only
from mindir import Graph, Value, export, zeros
from mindspore import Tensor, nn
from test_export import beyond_convolution, undocumented
from test_training_export import EXEMPT, documented

from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.config import AutoencoderConfig
from svd.layers.marks import temporal_parameters
from svd.networks.discriminator import Discriminators
from svd.networks.perceptual import Dissimilarity, Lpips
from svd.placement import place
from svd.training.config import OptimizerConfig
from svd.training.optimizer import AdamW, WeightAverage
from svd.training.reconstruction import AdversarialLoss, DiscriminatorLoss, ReconstructionLoss
from svd.training.step import TrainStep

pytestmark = cpu_only("graphs for Ascend are exported on CPU")

CONFIG = AutoencoderConfig(channels=32, channel_mult=[1, 2], num_res_blocks=1)
FRAMES, SIDE = 4, 64
OTHERWISE = {"ReluGrad": "ReLUGrad"}
"""Gradients that are spelt otherwise than their operators."""


class Exported(nn.Cell):
    """A step of two inputs; the decoder's is told that the discriminators play."""

    def __init__(self, step: TrainStep, first: bool):
        super().__init__(auto_prefix=False)
        self.step, self.first = step, first

    def construct(self, scale, last, coefficients, rate, a, b):
        if self.first:
            return self.step(scale, last, coefficients, rate, True, a, b)
        return self.step(scale, last, coefficients, rate, a, b)


class Perceptual(nn.Cell):
    """Both losses."""

    def __init__(self):
        super().__init__()
        self.lpips, self.ssim = Lpips(), Dissimilarity()

    def construct(self, x, y):
        return self.lpips(x, y) + self.ssim(x, y)


@pytest.fixture(scope="module", params=["decoder", "discriminators"])
def graph(request, tmp_path_factory) -> Graph:
    discriminators = place(Discriminators("both", 64, 2, 0, FRAMES), "Ascend", ms.float32)
    common = [zeros(), Tensor(True), zeros(3), zeros()]
    folder = tmp_path_factory.mktemp("graph")
    if request.param == "discriminators":
        trained = list(discriminators.get_parameters())
        loss = DiscriminatorLoss(discriminators)
        step = TrainStep(loss, AdamW(trained, OptimizerConfig()), trained, None, micro_batches=2)
        frames = [zeros(FRAMES, 3, SIDE, SIDE), zeros(FRAMES, 3, SIDE, SIDE)]
        return export(Exported(step, False), common + frames, folder)
    encoder, decoder = Encoder(CONFIG, quant_conv=True), Decoder(CONFIG)
    trained = temporal_parameters(decoder)
    for name, network in (("encoder", encoder), ("decoder", decoder)):
        for parameter in network.get_parameters():
            parameter.name = f"{name}.{parameter.name}"
    place(encoder, "Ascend", ms.float16), place(decoder, "Ascend", ms.float16, masters=trained)
    perceptual = place(Perceptual(), "Ascend", ms.float32)
    loss = AdversarialLoss(ReconstructionLoss(encoder, decoder, 0.0, perceptual), discriminators, 1.0)
    average = WeightAverage(trained, 0.999)
    step = TrainStep(loss, AdamW(trained, OptimizerConfig()), trained, average, micro_batches=2, more=True)
    clips = [zeros(1, FRAMES, 3, SIDE, SIDE), zeros(1, FRAMES, 4, SIDE // 2, SIDE // 2)]
    return export(Exported(step, True), common + clips, folder)


def test_every_operator_is_documented_for_ascend(graph):
    """Divs is to derivatives of MindSpore's making what Muls is."""
    assert {node.scope.split("/")[0] for node in graph.of("Muls", "Divs")} <= {"Gradients"}
    names = {OTHERWISE.get(name, name) for name in undocumented(graph) - EXEMPT - {"Divs"}}
    assert sorted(name for name in names if not documented(name)) == []


def test_there_is_no_conv3d_and_nothing_of_double_precision(graph):
    assert graph.of("Conv3D", "Conv3DExt") == [] and len(graph.of("Conv2D")) > 10
    assert "float64" not in {value.dtype for value in graph.values}
    assert beyond_convolution(graph) == set()


def test_what_judges_is_of_float32(graph):
    """Discriminators and VGG16. Gradients have the types of what they are of; their scopes are those of whichever
    convolution came first.
    """
    inputs = [(node.scope, value) for node in graph.of("Conv2D") for value in node.inputs[:2]]
    in_16_bits = {scope for scope, value in inputs if isinstance(value, Value) and value.dtype == "float16"}
    assert sorted(scope for scope in in_16_bits if "discriminators" in scope or "perceptual" in scope) == []
