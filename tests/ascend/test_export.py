"""The networks in their Ascend form, checked without an Ascend.

The full-size architecture is compiled whole, for videos of 25 frames at 576 x 1024 with guidance, Stable Diffusion's
for an image of 768 x 768, its x4 upscaler for one of 512 x 512, and the graphs are held against what MindSpore and CANN
document: the operators, their types and the sizes that they take. Compiling needs neither the device nor the memory;
what cannot be seen here is whether a kernel does as documented.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import mindspore as ms
import numpy as np
import pytest
from device import cpu_only
from mindir import Graph, Value, export, zeros
from mindspore import Tensor, nn, ops
from mindspore.nn.utils import no_init_parameters
from platforms import documented_platforms

from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.conditioning.image_encoder import ImageEncoder
from svd.conditioning.text_encoder import TextEncoder
from svd.config import (
    ImageLDMConfig,
    ModelConfig,
    ModelScopeLayers,
    MotionModules,
    TemporalConfig,
    TextEncoderConfig,
    UpsamplerConfig,
    VideoLDMConfig,
    VideoLDMLayers,
)
from svd.layers.basic import conv2d
from svd.networks.blocks.image import image_unet
from svd.networks.blocks.svd import svd_unet
from svd.networks.blocks.upsampler import upsampler_unet
from svd.networks.blocks.video_ldm import video_unet
from svd.networks.discriminator import PatchDiscriminator
from svd.operators import ascend
from svd.placement import place

pytestmark = cpu_only("graphs for Ascend are exported on CPU")

BOOKKEEPING = {
    "Load": "reads a parameter",
    "UpdateState": "orders effects",
    "Depend": "orders effects",
    "MakeTuple": "builds a tuple of tensors",
    "TupleGetItem": "takes a tensor out of a tuple",
}
"""Nodes that the graph is held together by; they compute nothing, and no kernel is called."""
PRODUCTS = ("Conv2D", "Conv3D", "Dense", "MatMul", "BatchMatMul")
NORMALISATIONS = ("GroupNorm", "LayerNorm", "Softmax")
FRAMES, HEIGHT, WIDTH = 25, 576, 1024


@dataclass(frozen=True)
class Form:
    """A network as it runs on Ascend."""

    build: Callable[[], nn.Cell]
    inputs: tuple[tuple[int, ...], ...]
    """Shapes."""
    fused: int
    """Attentions over many tokens."""
    dtype: ms.Type = ms.float16
    integers: bool = False
    """Whether the input is tokens."""
    head_dim: int = 64
    """The largest: attention over no more tokens is not fused."""


SVD = ModelConfig()
IMAGE_DECODER = replace(SVD.autoencoder, decoder="image")
SD1, VIT_H = ImageLDMConfig(), TextEncoderConfig(width=1024, layers=23, heads=16, activation="gelu", padding="zero")
SD2 = replace(
    SD1,
    unet=replace(SD1.unet, num_heads=None, context_dim=1024, upcast_attention=True, convolution_projection=False),
    text_encoder=VIT_H,
)
MOTION = TemporalConfig(motion_modules=MotionModules(joint_resnet_norm=True))
MODELSCOPE = TemporalConfig(modelscope=ModelScopeLayers())
VIDEO_LDM = TemporalConfig(
    video_ldm=VideoLDMLayers(positions="relative", distance=8, text=True, alpha="clamped", fps=True, frames=True)
)


class OfFrames(nn.Cell):
    """A network that is given frames, with tensors alone as inputs."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x, c_noise, context, vector, frames, frames_noise):
        return self.network(x, c_noise, context, vector, False, None, frames, frames_noise)


def build_video(image: ImageLDMConfig, temporal: TemporalConfig) -> nn.Cell:
    """Of full width, but fewer layers, which would be the same again; seven transformers."""
    unet = replace(image.unet, channel_mult=[1, 4], num_res_blocks=1, attention_resolutions=[1, 2])
    return video_unet(VideoLDMConfig(unet=unet, text_encoder=image.text_encoder, temporal=temporal))


UPSAMPLER = UpsamplerConfig()
VIDEO_UPSAMPLER = replace(
    UPSAMPLER,
    unet=replace(
        UPSAMPLER.unet, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[2], cross_attention_only=[2]
    ),
    temporal=TemporalConfig(),
)
"""Of full width, too, but fewer layers."""
FORMS = {
    "unet": Form(
        lambda: svd_unet(SVD.unet), ((2, FRAMES, 8, HEIGHT // 8, WIDTH // 8), (2,), (2, 1, 1024), (2, 768)), fused=16
    ),
    # Fourteen frames at a time: SVD's videos are decoded at once where there is memory.
    "temporal_decoder": Form(lambda: Decoder(SVD.autoencoder), ((1, 14, 4, HEIGHT // 8, WIDTH // 8),), fused=1),
    "image_decoder": Form(lambda: Decoder(IMAGE_DECODER), ((14, 4, HEIGHT // 8, WIDTH // 8),), fused=1),
    "image_encoder": Form(lambda: ImageEncoder(SVD.image_encoder), ((1, 3, 224, 224),), fused=32),
    "discriminator": Form(PatchDiscriminator, ((1, 14, 3, 256, 256),), 0, ms.float32),
    "encoder": Form(lambda: Encoder(SVD.autoencoder, quant_conv=True), ((1, 3, HEIGHT, WIDTH),), 0, ms.float32),
    # Of 16 transformers, each with two attentions, the middle one sees 144 pixels; text is fused in heads of 40.
    "sd1_unet": Form(lambda: image_unet(SD1), ((2, 1, 4, 96, 96), (2,), (2, 77, 768)), 15 + 5, head_dim=160),
    "sd2_unet": Form(lambda: image_unet(SD2), ((2, 1, 4, 96, 96), (2,), (2, 77, 1024)), 16 + 16),
    # Attention over frames sees few of them, but VideoLDM's the text, too.
    "animatediff_unet": Form(
        lambda: build_video(SD1, MOTION), ((2, 16, 4, 64, 64), (2,), (2, 77, 768)), 7 + 3, head_dim=160
    ),
    "modelscope_unet": Form(lambda: build_video(SD2, MODELSCOPE), ((2, 24, 4, 72, 128), (2,), (2, 77, 1024)), 7 + 7),
    "video_ldm_unet": Form(
        lambda: OfFrames(build_video(SD2, VIDEO_LDM)),
        ((2, 16, 4, 96, 96), (2,), (2, 77, 1024), (2, 320), (2, 16, 5, 96, 96), (2, 16, 320)),
        7 + 2 * 7,
    ),
    # Of 16 transformers, ten attend to the text twice, and six to pixels and text; these have heads of 128 channels,
    # and the text has fewer tokens.
    "upsampler_unet": Form(
        lambda: upsampler_unet(UPSAMPLER),
        ((2, 1, 7, 128, 128), (2,), (2, 77, 1024), (2, 1000)),
        2 * 10 + 6,
        head_dim=128,
    ),
    # A window of 8 frames in tiles of 256 x 256; whole frames of 320 x 512 have tensors of more than 2^31 elements.
    "video_upsampler_unet": Form(
        lambda: upsampler_unet(VIDEO_UPSAMPLER), ((2, 8, 7, 256, 256), (2,), (2, 77, 1024), (2, 1000)), 2 * 3 + 2
    ),
    "text_encoder": Form(lambda: TextEncoder(VIT_H), ((1, 77),), 23, integers=True),
}


@pytest.fixture(scope="module", params=FORMS)
def form(request) -> Form:
    return FORMS[request.param]


@pytest.fixture(scope="module")
def network(form) -> nn.Cell:
    """Of full size, its parameters without values."""
    with no_init_parameters():
        network = form.build()
    return place(network.set_train(False), "Ascend", form.dtype)


@pytest.fixture(scope="module")
def graph(form, network, tmp_path_factory) -> Graph:
    inputs = [zeros(*shape, dtype=ms.int32 if form.integers else ms.float32) for shape in form.inputs]
    return export(network, inputs, tmp_path_factory.mktemp("graph"))


# What is checked: each returns what is wrong, so that tests can see that something would be.


def undocumented(graph: Graph) -> set[str]:
    """Operators that are not documented to run on Ascend."""
    operators = {node.primitive for node in graph.nodes} - set(BOOKKEEPING)
    return {operator for operator in operators if "Ascend" not in documented_platforms(operator)}


def of_other_type(graph: Graph, primitives: tuple[str, ...], dtype: str) -> set[str]:
    """Operators of these kinds whose first input, or second if it is a tensor, is of another type; where they are."""
    return {
        f"{node.primitive} in {node.scope}"
        for node in graph.of(*primitives)
        for i, value in enumerate(node.inputs[:2])
        if (i == 0 or isinstance(value, Value)) and value.dtype != dtype
    }


def beyond_convolution(graph: Graph) -> set[str]:
    """Convolutions of images that CANN's Conv2D is not documented for, and where they are.

    MindSpore's Conv2D is CANN's TBE operator: height up to 100,000, width up to 4096, "exceeding 4096 may cause
    compilation errors". A kernel of 3 rows needs 4 rows of 16 channels at once in a buffer of 512 kB: no wider.
    """
    sizes = {(node.inputs[0].shape, node.scope) for node in graph.of("Conv2D")}
    return {f"{shape} in {scope}" for shape, scope in sizes if shape[2] > 100_000 or shape[3] > 4096}


def beyond_flash_attention(graph: Graph) -> set[str]:
    """Fused attention of types, shapes, masks or scales that it is not documented for, and where it is.

    The limits are those of mindspore.ops.flash_attention_score; CANN's own are wider in some versions.
    """
    problems = set()
    for node in graph.of("FlashAttentionScore"):
        query, key, value = node.inputs[:3]
        heads, scale = node.inputs[10], node.inputs[12]
        (b, l, c), n = query.shape, key.shape[1]
        head_dim, mask = c // heads, node.inputs[6]
        if not (
            (mask is None or (mask.dtype == "bool" and mask.shape in ((b, heads, l, n), (b, 1, l, n), (l, n))))
            and query.dtype == key.dtype == value.dtype == "float16"
            and b <= 2048
            and max(l, n) <= 512 * 1024
            and heads <= 256
            and head_dim % 16 == 0
            and head_dim <= 512
            and head_dim == ascend.flash_head_dim(round(scale**-2))  # as wide as the scale says, or padded
        ):
            problems.add(f"{query.shape} {query.dtype} with {n} keys and scale {scale} in {node.scope}")
    return problems


def written_out(graph: Graph, head_dim: int = 64) -> set[str]:
    """Softmaxes over more tokens than heads have channels, and where they are: such scores outgrow their queries."""
    return {node.scope for node in graph.of("Softmax") if node.inputs[0].shape[-1] > head_dim}


def test_every_operator_is_documented_for_ascend(graph):
    assert undocumented(graph) == set()


def test_there_is_no_conv3d(graph):
    assert graph.of("Conv3D", "Conv3DExt") == []


def test_nothing_is_of_double_precision(graph):
    assert "float64" not in {value.dtype for value in graph.values}


def test_products_are_of_the_compute_type_and_normalisations_of_float32(form, graph):
    dtype = str(form.dtype).lower()
    assert graph.of(*PRODUCTS) and of_other_type(graph, PRODUCTS, dtype) == set()
    assert graph.of(*NORMALISATIONS) and of_other_type(graph, NORMALISATIONS, "float32") == set()


def test_results_are_of_the_type_of_the_inputs(graph):
    assert [value.dtype for value in graph.results] == ["float32"]


def test_sizes_are_within_what_operators_take(graph):
    assert beyond_convolution(graph) == set()
    assert beyond_flash_attention(graph) == set()
    # Nobody documents what kernels do with more elements than 32 bits can count; 14 frames of the decoder just fit.
    assert {value.shape for value in graph.values if np.prod(value.shape, dtype=np.int64) >= 2**31} == set()


def test_attention_over_many_tokens_is_fused(form, graph):
    """Attention over frames or a single context token has next to no scores to keep."""
    fused = [node for node in graph.of("FlashAttentionScore") if node.inputs[1].shape[1] > 64]
    assert len(fused) == form.fused
    if form.dtype != ms.float32:  # which the operator does not take
        assert written_out(graph, form.head_dim) == set()


def test_heads_of_40_channels_are_padded_to_48(form, graph):
    if form is FORMS["sd1_unet"]:
        heads = {node.inputs[0].shape[2] // node.inputs[10] for node in graph.of("FlashAttentionScore")}
        assert heads == {48, 80, 256}


# That the checks can fail.


class Layer(nn.Cell):
    """One function of one tensor."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def construct(self, x: Tensor) -> Tensor:
        return self.function(x)


def fused_attention(x: Tensor) -> Tensor:
    """Self-attention of 4 heads, with the scale that is right for 16 channels each."""
    return ops.flash_attention_score(x, x, x, 4, scalar_value=0.25)


def with_a_mask_of_numbers(x: Tensor) -> Tensor:
    return ops.flash_attention_score(x, x, x, 4, attn_mask=x[0], scalar_value=0.25)


def in_double(x: Tensor) -> Tensor:
    return (x.astype(ms.float64) * 2).astype(ms.float32)


@pytest.fixture
def exported(tmp_path):
    def run(layer, *shape: int, dtype: ms.Type = ms.float32) -> Graph:
        return export(layer if isinstance(layer, nn.Cell) else Layer(layer), [zeros(*shape, dtype=dtype)], tmp_path)

    return run


@pytest.mark.parametrize(
    "operator, platforms",
    [
        ("Conv2D", {"Ascend", "GPU", "CPU"}),
        ("SiLU", {"Ascend", "GPU", "CPU"}),  # refers to mindspore.ops.silu
        ("FlashAttentionScore", {"Ascend"}),
        ("Cholesky", {"GPU", "CPU"}),
        ("InstanceNorm", {"GPU"}),
        ("Fmax", {"CPU"}),
        ("Fill", set()),  # deprecated
        ("ConvolutionOfDreams", set()),
    ],
)
def test_platforms_are_what_the_documentation_says(operator, platforms):
    assert documented_platforms(operator) == platforms


def test_operators_without_an_ascend_kernel_are_found(exported):
    assert undocumented(exported(ops.Cholesky(), 3, 3)) == {"Cholesky"}
    assert undocumented(exported(ops.ReLU(), 3, 3)) == set()


def test_conv3d_and_wrong_types_are_found(exported):
    conv3d = exported(nn.Conv3d(2, 3, 3), 1, 2, 4, 4, 4)
    assert len(conv3d.of("Conv3D")) == 1
    assert len(of_other_type(conv3d, PRODUCTS, "float16")) == 1
    assert of_other_type(conv3d, PRODUCTS, "float32") == set()
    assert len(of_other_type(exported(ops.Softmax(), 2, 3, dtype=ms.float16), NORMALISATIONS, "float32")) == 1


def test_double_precision_is_found(exported):
    graph = exported(in_double, 2, 3)
    assert "float64" in {value.dtype for value in graph.values}


@pytest.mark.parametrize(
    "shape, fits", [((1, 1, 5, 4096), True), ((1, 1, 5, 4097), False), ((1, 1, 100_001, 5), False)]
)
def test_images_too_large_for_conv2d_are_found(exported, shape, fits):
    assert (beyond_convolution(exported(conv2d(1, 1, (3, 1)), *shape)) == set()) == fits


@pytest.mark.parametrize(
    "shape, dtype, fits",
    [
        ((2048, 2, 64), ms.float16, True),
        ((2049, 2, 64), ms.float16, False),  # batch
        ((1, 2, 64), ms.float32, False),  # type
        ((1, 2, 96), ms.float16, False),  # head dimension 24
        ((1, 2, 128), ms.float16, False),  # scale
    ],
)
def test_what_flash_attention_cannot_take_is_found(exported, shape, dtype, fits):
    assert (beyond_flash_attention(exported(fused_attention, *shape, dtype=dtype)) == set()) == fits


def test_masks_that_flash_attention_cannot_take_are_found(exported):
    graph = exported(with_a_mask_of_numbers, 2, 64, 64, dtype=ms.float16)
    assert len(beyond_flash_attention(graph)) == 1


class Masked(nn.Cell):
    """Self-attention of 4 heads with a mask, or a bias."""

    def __init__(self, mask: np.ndarray):
        super().__init__()
        self.attention, self.mask = ascend.Attention(4), Tensor(mask)

    def construct(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, self.mask)


@pytest.mark.parametrize(
    "clips, heads, dtype, fused",
    [(1, 1, bool, 1), (2, 1, bool, 1), (2, 4, bool, 1), (1, 4, bool, 0), (2, 1, np.float16, 0)],
)
def test_masks_are_fused_and_biases_written_out(exported, clips, heads, dtype, fused):
    graph = exported(Masked(np.zeros((clips, heads, 65, 65), dtype)), 2, 65, 64, dtype=ms.float16)
    assert len(graph.of("FlashAttentionScore")) == fused and len(written_out(graph)) == 1 - fused
    assert undocumented(graph) == beyond_flash_attention(graph) == set()
    assert of_other_type(graph, NORMALISATIONS, "float32") == set()


def test_scores_that_should_be_fused_are_found(exported):
    assert len(written_out(exported(ops.Softmax(), 2, 65))) == 1
    assert written_out(exported(ops.Softmax(), 2, 64)) == set()
