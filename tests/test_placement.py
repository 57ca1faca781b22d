"""The compute type: where it goes, and what it costs in accuracy."""

from __future__ import annotations

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close, relative_error
from device import DEVICE, eagerly
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from small_model import SMALL, fill
from training_runs import TINY

from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.build import build_networks, fill_networks
from svd.checkpoints.model_file import Checkpoint
from svd.conditioning.image_encoder import ImageEncoder
from svd.config import ConfigError
from svd.layers import axes
from svd.layers.attention import Attention
from svd.layers.basic import Geglu, Linear
from svd.layers.marks import temporal_parameters
from svd.networks.blocks.svd import svd_unet
from svd.networks.unet import UNet
from svd.operators import ascend, portable
from svd.operators.table import ASCEND_16_BITS
from svd.placement import compute_dtype, place
from svd.training.config import TrainConfig
from svd.training.tasks import find_task

KEPT = ("norm", "mix_factor", "class_embedding", "position_embedding")
"""Parts of the names of parameters that are not of convolutions or linear layers."""


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


NETWORKS = {
    "unet": (
        lambda: svd_unet(replace(SMALL.unet, channel_mult=[1], attention_resolutions=[1])),
        [(2, 3, 8, 4, 6), (2,), (2, 1, 16), (2, 24)],
    ),
    "temporal_decoder": (lambda: Decoder(SMALL.autoencoder), [(1, 3, 4, 4, 6)]),
    "image_decoder": (lambda: Decoder(replace(SMALL.autoencoder, decoder="image")), [(2, 4, 4, 6)]),
    "encoder": (lambda: Encoder(SMALL.autoencoder, quant_conv=True), [(2, 3, 8, 12)]),
    "image_encoder": (lambda: ImageEncoder(SMALL.image_encoder), [(2, 3, 8, 8)]),
}


@pytest.fixture(params=NETWORKS)
def case(request):
    """A function that builds a network with the same weights every time, and inputs for it."""
    build, shapes = NETWORKS[request.param]
    return lambda: fill(build()), [Tensor(random(*shape)) for shape in shapes]


@pytest.mark.parametrize(
    "device, amp_level, dtype",
    [
        ("Ascend", "auto", ms.float16),
        ("GPU", "auto", ms.float32),
        ("CPU", "auto", ms.float32),
        ("Ascend", "O0", ms.float32),
        ("GPU", "O0", ms.float32),
        ("CPU", "O0", ms.float32),
        ("Ascend", "O2", ms.float16),
        ("GPU", "O2", ms.float16),
        ("CPU", "O2", ms.float16),
        ("Ascend", "bf16", ms.bfloat16),
    ],
)
def test_compute_type_by_device_and_level(device, amp_level, dtype):
    assert compute_dtype(device, amp_level) == dtype


@pytest.mark.parametrize(
    "device, amp_level, message",
    [
        ("GPU", "bf16", "amp_level bf16 is for Ascend: MindSpore lacks bfloat16 operators on GPU; use O0 or O2"),
        ("CPU", "bf16", "amp_level bf16 is for Ascend: MindSpore lacks bfloat16 operators on CPU; use O0 or O2"),
        ("Ascend", "O1", "amp_level must be one of auto, O0, O2, bf16, got O1"),
    ],
)
def test_levels_that_are_refused(device, amp_level, message):
    with pytest.raises(ConfigError) as error:
        compute_dtype(device, amp_level)
    assert str(error.value) == message


# In graph mode without the image decoder, whose blocks the temporal one's are made of.
@pytest.mark.parametrize(
    "_mode, case",
    [(mode, name) for mode in (0, 1) for name in NETWORKS if mode == 1 or name != "image_decoder"],
    indirect=True,
)
def test_float16_is_close_to_float32(mode, case):
    """Types fit each other in both modes, results stay in the type of the inputs, and the error is that of float16."""
    build, inputs = case
    result = place(build(), DEVICE, ms.float16)(*inputs)
    with eagerly():
        exact = build()(*inputs)
    assert exact.dtype == result.dtype == ms.float32
    assert 1e-5 < relative_error(result, exact) < 2e-2


def test_convolutions_and_linear_layers_have_the_compute_type_and_nothing_else_has(case):
    build, _ = case
    network = place(build(), DEVICE, ms.float16)
    for parameter in network.get_parameters():
        kept = any(part in parameter.name for part in KEPT)
        assert parameter.dtype == (ms.float32 if kept else ms.float16), parameter.name
    place(network, DEVICE, ms.float32)
    assert {parameter.dtype for parameter in network.get_parameters()} == {ms.float32}


def test_parameters_may_be_loaded_before_or_after(case):
    build, _ = case
    before = build()
    after = place(build(), DEVICE, ms.float16)
    for parameter, exact in zip(after.get_parameters(), before.get_parameters()):
        parameter.set_data(Tensor(exact.asnumpy(), parameter.dtype))
    place(before, DEVICE, ms.float16)
    for a, b in zip(before.get_parameters(), after.get_parameters()):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


def test_every_layer_gets_the_operators_of_the_device(case, monkeypatch):
    build, _ = case
    network, seen = build(), []
    users = [cell for _, cell in network.cells_and_names() if hasattr(cell, "set_operators")]
    for cell in users:
        monkeypatch.setattr(cell, "set_operators", seen.append)
    place(network, "Ascend", ms.float16)
    assert users and seen == [ASCEND_16_BITS] * len(users)


def test_the_latest_setting_holds():
    layer = place(Attention(32, 2), "Ascend", ms.float16)
    assert isinstance(layer.attention.attention, ascend.Attention) and layer.to_q.weight.dtype == ms.float16
    place(layer, "Ascend", ms.float32)
    assert isinstance(layer.attention.attention, portable.Attention) and layer.to_q.weight.dtype == ms.float32


# --- training ---


UNET = replace(SMALL.unet, channel_mult=[1], attention_resolutions=[])
"""One level: float16 is slow on CPU."""


def unet(dtype: ms.Type) -> tuple[UNet, list[Parameter]]:
    """The network of this compute type, and the parameters that are trained."""
    network = fill(svd_unet(UNET))
    trained = temporal_parameters(network)
    return place(network, DEVICE, dtype, masters=trained), trained


def unet_inputs() -> list[Tensor]:
    return [Tensor(random(*shape)) for shape in ((1, 2, 8, 4, 4), (1,), (1, 1, 16), (1, 24))]


def test_trained_parameters_stay_float32():
    """All others have the type that they have without training."""
    network, trained = unet(ms.float16)
    untrained = place(fill(svd_unet(UNET)), DEVICE, ms.float16)
    masters = {id(p) for p in trained}
    types = {p.name: p.dtype for p in untrained.get_parameters()}
    assert ms.float16 in {types[p.name] for p in trained}  # which training changes
    for parameter in network.get_parameters():
        expected = ms.float32 if id(parameter) in masters else types[parameter.name]
        assert parameter.dtype == expected, parameter.name


def test_float16_with_float32_weights(eager):
    """It computes what the network of float16 weights does, bit for bit; small changes of weights are not lost."""
    inputs = unet_inputs()
    network, trained = unet(ms.float16)
    expected = place(fill(svd_unet(UNET)), DEVICE, ms.float16)(*inputs)
    np.testing.assert_array_equal(network(*inputs).asnumpy(), expected.asnumpy())
    weight = next(p for p in trained if p.name.endswith("conv1.weight"))
    before = weight.asnumpy().copy()
    weight.set_data(Tensor(before * np.float32(1 + 1e-5)))
    assert np.abs(weight.asnumpy() / before - 1).max() == pytest.approx(1e-5, rel=0.05)


def test_gradients_of_float16_arrive_in_float32(eager):
    """Through the casts, and close to those of float32: the loss is scaled against underflow, as in training."""
    inputs, results = unet_inputs(), []
    for dtype, scale in ((ms.float32, 1.0), (ms.float16, 2.0**10)):
        network, trained = unet(dtype)
        weights = ParameterTuple(trained)
        run = ms.value_and_grad(lambda *x: ops.mean(ops.square(network(*x))) * scale, None, weights)  # noqa: B023
        loss, gradients = run(*inputs)
        assert {gradient.dtype for gradient in gradients} == {ms.float32}
        results.append([loss.asnumpy() / scale] + [gradient.asnumpy() / scale for gradient in gradients])
    (exact_loss, *exact), (loss, *gradients) = results
    assert 1e-7 < abs(loss / exact_loss - 1) < 1e-2
    whole = [np.concatenate([gradient.ravel() for gradient in of_one]) for of_one in (exact, gradients)]
    assert 1e-5 < np.linalg.norm(whole[1] - whole[0]) / np.linalg.norm(whole[0]) < 2e-2


def leaves(network: nn.Cell) -> list[nn.Cell]:
    return [cell for _, cell in network.cells_and_names() if isinstance(cell, (nn.Conv2d, Linear, Geglu))]


def test_a_network_that_is_trained_as_a_whole_computes_in_its_type(eager, case, monkeypatch):
    """Not in that of its weights, which are float32: every convolution and linear layer, and the gradients arrive."""
    build, inputs = case
    network = build()
    trained = list(network.get_parameters())
    place(network, "CPU", ms.float16, trained)
    assert {parameter.dtype for parameter in trained} == {ms.float32}
    types = []
    for cell in leaves(network):
        forward = cell.without_bias if isinstance(cell, nn.Conv2d) else cell.construct

        def seen(x, *args, forward=forward):
            types.append(x.dtype)
            return forward(x, *args)

        monkeypatch.setattr(cell, "without_bias" if isinstance(cell, nn.Conv2d) else "construct", seen)
    result = network(*inputs)
    assert result.dtype == ms.float32 and len(types) >= 3 and set(types) == {ms.float16}
    monkeypatch.undo()
    exact = build()(*inputs)
    assert 1e-5 < relative_error(result, exact) < 2e-2
    weights = ParameterTuple(trained)
    gradients = ms.grad(lambda *x: ops.mean(ops.square(network(*x))) * 2.0**8, None, weights)(*inputs)
    assert {gradient.dtype for gradient in gradients} == {ms.float32}


def test_encoders_are_exact_unless_they_are_trained(inputs):
    """They see one image per video, where float32 costs nothing; in training, all frames of a batch."""
    for task, expected in (("image_to_video", ms.float32), ("autoencoder", ms.float16)):
        networks, file = build_networks(TINY), Checkpoint(inputs / "tiny.safetensors")
        trained = sum(find_task(task).trained(TrainConfig(None, task=task), networks).values(), [])
        fill_networks(TINY, networks, file, "CPU", "O2", trained)
        assert networks["autoencoder.encoder"].compute_dtype == expected
        assert networks["autoencoder.decoder"].compute_dtype == networks["network"].compute_dtype == ms.float16


@pytest.mark.parametrize("case", ["unet", "temporal_decoder"], indirect=True)
def test_slices_of_pixels_change_nothing(mode, case, monkeypatch):
    """Convolutions over time as on Ascend, but of no more than 7 pixels at a time."""
    build, inputs = case
    with eagerly():
        whole = place(build(), "Ascend", ms.float32)(*inputs)  # of so few pixels, at once
    monkeypatch.setattr(axes, "MAX_WIDTH", 7)
    assert_close(place(build(), "Ascend", ms.float32)(*inputs), whole, 5e-6)
