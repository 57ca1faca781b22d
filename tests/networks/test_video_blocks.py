"""UNets with temporal layers of every kind: the image model within them, and symmetries in time."""

from functools import cache

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from device import DEVICE
from mindspore import Tensor, nn, ops
from mindspore.nn.utils import no_init_parameters
from small_model import fill

from svd import runtime
from svd.config import (
    ConfigError,
    ModelScopeLayers,
    MotionModules,
    TemporalConfig,
    TextAttentionLayers,
    TextEncoderConfig,
    UNetConfig,
    VideoLDMConfig,
    VideoLDMLayers,
)
from svd.initialization import initial_value
from svd.layers.marks import spatial_parameters, temporal_parameters, zero_init_names
from svd.layers.recompute import recompute_blocks
from svd.networks.blocks.image import image_unet
from svd.networks.blocks.video_ldm import video_unet
from svd.networks.split import Split

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 4, 6)).astype(np.float32)
TIMESTEPS = np.array([900, 30], np.float32)
TEXT, OF_TIME = RNG.standard_normal((2, 2, 5, 24)).astype(np.float32)
FPS = RNG.standard_normal((2, 32)).astype(np.float32)
INPUTS = {"x": X, "c_noise": TIMESTEPS, "context": TEXT}

KINDS = {
    "sinusoidal": TemporalConfig(video_ldm=VideoLDMLayers()),
    "relative": TemporalConfig(
        video_ldm=VideoLDMLayers(positions="relative", distance=2, text=True, alpha="clamped", fps=True)
    ),
    "motion_modules": TemporalConfig(motion_modules=MotionModules(heads=4, max_frames=8, middle=True)),
    "motion_modules_v1": TemporalConfig(motion_modules=MotionModules(heads=4, max_frames=8, joint_resnet_norm=True)),
    "modelscope": TemporalConfig(modelscope=ModelScopeLayers(num_head_channels=16, entry_heads=4)),
    "text_attention": TemporalConfig(text_attention=TextAttentionLayers(heads=4)),
}


def config_of(kind: str) -> VideoLDMConfig:
    unet = UNetConfig(
        in_channels=4,
        model_channels=32,
        channel_mult=[1, 2],
        num_res_blocks=1,
        attention_resolutions=[1],
        num_heads=4,
        context_dim=24,
        vector_dim=None,
    )
    return VideoLDMConfig(unet=unet, text_encoder=TextEncoderConfig(width=24, heads=2), temporal=KINDS[kind])


@cache
def network_of(kind: str, mode: int = 1) -> nn.Cell:
    """One for each mode, so that graphs are compiled once."""
    return new_network(kind)


def new_network(kind: str) -> nn.Cell:
    """The same every time."""
    network = fill(video_unet(config_of(kind)))
    for parameter in network.get_parameters():
        if parameter.name.endswith(".alpha"):
            parameter.set_data(Tensor([0.4], ms.float32))
    return network


@pytest.fixture(params=KINDS)
def kind(request, eager) -> str:
    """In pynative mode: graphs are compared with other programs' results, or below."""
    return request.param


@pytest.fixture
def network(kind) -> nn.Cell:
    return network_of(kind)


@cache
def result_of(kind: str, image_only: bool = False) -> np.ndarray:
    """What the network gives for the inputs above."""
    return run(network_of(kind), image_only)


def run(network: nn.Cell, image_only: bool = False, **changed: np.ndarray) -> np.ndarray:
    """The result for these inputs; a network that is conditioned on the frame rate is given that, too."""
    inputs = {"vector": FPS, "temporal_context": OF_TIME} | INPUTS | changed
    tensors = {name: Tensor(value) for name, value in inputs.items()}
    vector = tensors["vector"] if network.vector_embedding is not None else None
    return network(
        tensors["x"], tensors["c_noise"], tensors["context"], vector, image_only, tensors["temporal_context"]
    ).asnumpy()


def test_two_clips_equal_two_batches_of_one(kind, network):
    inputs = INPUTS | {"vector": FPS, "temporal_context": OF_TIME}
    alone = [run(network, **{name: value[i : i + 1] for name, value in inputs.items()}) for i in (0, 1)]
    result = result_of(kind)
    assert_close(result, np.concatenate(alone))
    assert np.abs(result[0] - result[1]).max() > 0.1


def test_graphs_give_the_same():
    """Of what no other program has: relative positions, text in temporal layers, a clamped alpha, the frame rate."""
    results = []
    for mode in (0, 1):
        runtime.setup(DEVICE, mode)
        results.append(run(network_of("relative", mode)))
    assert_close(*results)


def test_frames_are_not_independent(kind, network):
    result = result_of(kind)
    changed = X.copy()
    changed[0, 2] *= -1
    difference = np.abs(run(network, x=changed) - result).max((2, 3, 4))
    assert difference[0, 0] > 1e-3 and difference[1].max() < 1e-5


def test_what_temporal_layers_are_told(kind, network):
    """Their text and the frame rate count for their own clip; image-only mode knows of neither."""
    text, vector = {"temporal_context": OF_TIME[[1, 1]]}, {"vector": FPS[[1, 1]]}
    told = [(text, kind in ("relative", "text_attention"))]
    if network.vector_embedding is not None:  # the others are not given it
        assert kind == "relative"
        told.append((vector, True))
    for changed, counts in told:
        difference = np.abs(run(network, **changed) - result_of(kind)).max((1, 2, 3, 4))
        assert (difference[0] > 1e-4) == counts and difference[1] < 1e-5
    assert np.array_equal(run(network, True, **text, **vector), result_of(kind, True))


def test_the_image_model_is_within(kind):
    """Bit for bit: without temporal layers, and where alpha is one or what temporal layers add is zero."""
    network = video_unet(config_of(kind))
    fill(network)
    image = image_unet(config_of(kind))
    weights = {parameter.name: parameter for parameter in spatial_parameters(network)}
    parameters = list(image.get_parameters())
    assert [parameter.name for parameter in parameters] == list(weights)
    for parameter in parameters:
        parameter.set_data(weights[parameter.name].value())
    image.set_train(False)
    expected = image(*map(Tensor, (X, TIMESTEPS, TEXT))).asnumpy()
    assert np.array_equal(run(network, True), expected)
    if kind == "motion_modules_v1":
        return  # residual blocks over all frames are not those of the image model
    zero = zero_init_names(network)
    for parameter in temporal_parameters(network):
        if parameter.name.endswith((".mix_factor", ".alpha")):
            parameter.set_data(Tensor([100.0], ms.float32))
        elif parameter.name in zero:
            parameter.set_data(ops.zeros_like(parameter))
    assert np.array_equal(run(network), expected)


def test_video_models_start_as_the_image_model(kind):
    """As `svd initialize` writes them."""
    network = fill(video_unet(config_of(kind)))
    zero = zero_init_names(network)
    for parameter in temporal_parameters(network):
        value = initial_value(parameter.name, parameter.shape, 0, parameter.name in zero)
        parameter.set_data(Tensor(value))
    if kind != "motion_modules_v1":
        assert_close(run(network), run(network, True), 1e-6)


def gradients_of(network: nn.Cell) -> dict[str, np.ndarray]:
    """Of the mean square of the result, by the temporal parameters."""
    parameters = temporal_parameters(network)
    inputs = [Tensor(x) for x in (X, TIMESTEPS, TEXT)]
    vector = Tensor(FPS) if network.vector_embedding is not None else None

    def loss() -> Tensor:
        return ops.square(network(*inputs, vector, False, Tensor(OF_TIME))).mean()

    gradients = ms.grad(loss, None, ms.ParameterTuple(parameters))()
    return {parameter.name: gradient.asnumpy() for parameter, gradient in zip(parameters, gradients, strict=True)}


def test_gradients_reach_all_temporal_layers(kind):
    """And are the same where blocks are computed again on the way back."""
    gradients, again = gradients_of(network_of(kind)), new_network(kind)
    recompute_blocks(again)
    for name, gradient in gradients_of(again).items():
        assert np.abs(gradient).max() > 0, name
        assert_close(gradients[name], gradient)


def test_frames_far_away_do_not_matter_to_relative_attention(eager):
    network = network_of("relative")
    layer = network.down_blocks[0].attentions[0]
    x = RNG.standard_normal((1, 9, 32, 4, 2)).astype(np.float32)
    changed = x.copy()
    changed[:, 6] *= -1
    text = Tensor(TEXT[:1])
    constants = layer.constants(text, text, 9)
    difference = np.abs((layer(Tensor(changed), *constants) - layer(Tensor(x), *constants)).asnumpy()).max((0, 2, 3, 4))
    assert difference[:4].max() < 1e-6 and difference[4:].min() > 1e-3


@pytest.mark.parametrize(
    "temporal, message",
    [
        (TemporalConfig(motion_modules=MotionModules(heads=7)), "temporal.motion_modules.heads 7 does not divide"),
        (TemporalConfig(modelscope=ModelScopeLayers(48)), "temporal.modelscope.num_head_channels 48 does not divide"),
        (TemporalConfig(text_attention=TextAttentionLayers(7)), "temporal.text_attention.heads 7 does not divide"),
    ],
)
def test_heads_that_do_not_divide_the_channels(temporal, message):
    with pytest.raises(ConfigError, match=message):
        VideoLDMConfig(temporal=temporal)


@pytest.mark.parametrize(
    "temporal, parameters",
    [
        (TemporalConfig(motion_modules=MotionModules(max_frames=24, joint_resnet_norm=True)), 417_137_600),
        (TemporalConfig(motion_modules=MotionModules(middle=True)), 453_209_280),
        (TemporalConfig(modelscope=ModelScopeLayers()), 545_323_136),
    ],
)
def test_published_sizes(temporal, parameters):
    """Those of the temporal layers."""
    unet = UNetConfig(in_channels=4, context_dim=1024, vector_dim=None)
    config = VideoLDMConfig(unet=unet, text_encoder=TextEncoderConfig(width=1024, heads=16), temporal=temporal)
    with no_init_parameters():
        network = video_unet(config)
    assert sum(int(np.prod(parameter.shape)) for parameter in temporal_parameters(network)) == parameters
    assert sum(int(np.prod(parameter.shape)) for parameter in spatial_parameters(network)) == 865_910_724


def test_both_halves_are_the_network(kind, network):
    split, vector = Split(network), Tensor(FPS) if network.vector_embedding is not None else None
    prepared = split.prepare((Tensor(TEXT), vector, Tensor(OF_TIME)), 3, False)
    assert_close(split.evaluate(Tensor(X), Tensor(TIMESTEPS), *prepared), result_of(kind), 2e-6)


def test_frames_are_not_limited_in_number(network):
    """More than the network has seen, down to a single one."""
    for frames in (1, 7):
        x = np.repeat(X, 3, 1)[:, :frames]
        assert run(network, x=x).shape == x.shape
