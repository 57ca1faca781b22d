"""The training step in its Ascend form, checked without an Ascend, as `test_export` checks the networks.

The UNet has the kinds of blocks of the full one at its two largest sizes, fewer of them, and a fifth of the channels:
types, operators and numbers of tokens and frames are those of a clip of 14 frames at 576 x 1024.
"""

import inspect

import mindspore as ms
import pytest
from device import cpu_only
from mindir import Graph, export, zeros
from mindspore import Tensor, mint, nn
from platforms import SECTION, documented_platforms
from test_export import PRODUCTS, beyond_convolution, beyond_flash_attention, of_other_type, undocumented, written_out

from svd.config import UNetConfig
from svd.diffusion.denoiser import Denoise
from svd.diffusion.loss import DenoisingLoss
from svd.layers.marks import temporal_parameters
from svd.networks.blocks.svd import svd_unet
from svd.placement import place
from svd.training.config import OptimizerConfig
from svd.training.optimizer import AdamW, WeightAverage
from svd.training.step import TrainStep

pytestmark = cpu_only("graphs for Ascend are exported on CPU")

EXEMPT = {"Switch", "Muls"}
"""What `if` becomes, and what derivatives multiply with a number by."""
GRADIENTS = {"Conv2DBackpropInput": "Conv2D", "Conv2DBackpropFilter": "Conv2D", "SoftmaxBackward": "Softmax"}
"""Gradients that are not called after their operator."""
BEHIND = {"MatMulExt": mint.matmul, "SumExt": mint.sum, "SplitWithSize": mint.split}
"""Functions whose documentation stands for operators that have none."""
CONFIG = UNetConfig(
    model_channels=64,
    channel_mult=[1, 2],
    num_res_blocks=1,
    attention_resolutions=[1, 2],
    context_dim=64,
    vector_dim=48,
)
LATENTS = (1, 14, 4, 72, 128)


class Exported(nn.Cell):
    """A training step of inputs that can be exported: its own takes any number of them."""

    def __init__(self, step: TrainStep):
        super().__init__(auto_prefix=False)
        self.step = step

    def construct(self, scale, last, coefficients, rate, latents, noise, levels, context, concat, vector):
        return self.step(scale, last, coefficients, rate, latents, noise, levels, context, concat, vector)


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Graph:
    network = svd_unet(CONFIG).set_train(False)
    trained = temporal_parameters(network)
    place(network, "Ascend", ms.float16, masters=trained)
    step = TrainStep(
        DenoisingLoss(Denoise(network)),
        AdamW(trained, OptimizerConfig()),
        trained,
        WeightAverage(trained, 0.9999),
        micro_batches=2,
    )
    inputs = [zeros(), Tensor(True), zeros(3), zeros(), zeros(*LATENTS), zeros(*LATENTS), zeros(6, 1)]
    inputs += [zeros(1, 1, CONFIG.context_dim), zeros(*LATENTS), zeros(1, CONFIG.vector_dim)]
    return export(Exported(step), inputs, tmp_path_factory.mktemp("graph"))


def documented(operator: str) -> bool:
    """Whether an operator, the operator that it is the gradient of, or the function that it is behind is."""
    if operator in BEHIND:
        return "Ascend" in SECTION.search(inspect.getdoc(BEHIND[operator]))["line"]
    return "Ascend" in documented_platforms(GRADIENTS.get(operator, operator.removesuffix("Grad")))


def test_every_operator_is_documented_for_ascend(graph):
    """Gradients have no documentation of their own: they are there where their operators are.

    Nor has Muls, by which MindSpore multiplies with a number in derivatives of its making; ours have none.
    """
    assert {node.scope.split("/")[0] for node in graph.of("Muls")} == {"Gradients"}
    assert sorted(name for name in undocumented(graph) - EXEMPT if not documented(name)) == []


def test_products_are_of_float16_forth_and_back(graph):
    """The gradients of convolutions and linear layers too, though the weights are float32."""
    products = (*PRODUCTS, "Conv2DBackpropInput", "Conv2DBackpropFilter")
    assert len(graph.of(*products)) > 200
    assert of_other_type(graph, products, "float16") == set()


def test_nothing_is_of_double_precision(graph):
    assert "float64" not in {value.dtype for value in graph.values}


def test_attention_is_fused_forth_and_back(graph):
    forth, back = graph.of("FlashAttentionScore"), graph.of("FlashAttentionScoreGrad")
    assert len(forth) == 7 and len(back) >= 6  # before the first trained layer there is nothing to go back to
    assert beyond_flash_attention(graph) == set()
    assert written_out(graph) == set()


def test_sizes_are_within_what_convolutions_take(graph):
    assert beyond_convolution(graph) == set()


def test_each_trained_parameter_is_updated_once(graph):
    trained = len(temporal_parameters(svd_unet(CONFIG)))
    assert len(graph.of("AdamWeightDecay")) == trained
    assert len(graph.of("AssignAdd")) == trained
