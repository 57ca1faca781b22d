"""The compute type: where it goes, and what it costs in accuracy."""

from __future__ import annotations

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close, relative_error
from mindspore import Tensor
from small_model import SMALL, fill

from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.conditioning.image_encoder import ImageEncoder
from svd.layers import axes
from svd.layers.attention import Attention
from svd.networks.video_unet import VideoUNet
from svd.precision import compute_dtype, set_precision

KEPT = ("norm", "mix_factor", "class_embedding", "position_embedding")
"""Parts of the names of parameters that are not of convolutions or linear layers."""


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


NETWORKS = {
    "unet": (lambda: VideoUNet(SMALL.unet), [(2, 3, 8, 4, 6), (2,), (2, 1, 16), (2, 24)]),
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
    ],
)
def test_compute_type_by_device_and_level(device, amp_level, dtype):
    assert compute_dtype(device, amp_level) == dtype


def test_float16_is_close_to_float32(mode, case):
    """Types fit each other in both modes, results stay in the type of the inputs, and the error is that of float16."""
    build, inputs = case
    exact = build()(*inputs)
    result = set_precision(build(), ms.float16, ascend=False)(*inputs)
    assert exact.dtype == result.dtype == ms.float32
    assert 1e-5 < relative_error(result, exact) < 2e-2


def test_convolutions_and_linear_layers_have_the_compute_type_and_nothing_else_has(case):
    build, _ = case
    network = set_precision(build(), ms.float16, ascend=False)
    for parameter in network.get_parameters():
        kept = any(part in parameter.name for part in KEPT)
        assert parameter.dtype == (ms.float32 if kept else ms.float16), parameter.name
    set_precision(network, ms.float32, ascend=False)
    assert {parameter.dtype for parameter in network.get_parameters()} == {ms.float32}


def test_parameters_may_be_loaded_before_or_after(case):
    build, _ = case
    before = build()
    after = set_precision(build(), ms.float16, ascend=False)
    for parameter, exact in zip(after.get_parameters(), before.get_parameters()):
        parameter.set_data(Tensor(exact.asnumpy(), parameter.dtype))
    set_precision(before, ms.float16, ascend=False)
    for a, b in zip(before.get_parameters(), after.get_parameters()):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


@pytest.mark.parametrize(
    "dtype, ascend, expected",
    [
        (ms.float16, True, True),
        (ms.float16, False, False),
        (ms.float32, True, False),  # the operator takes no float32
        (ms.float32, False, False),
    ],
)
def test_flash_attention_only_with_16_bits(case, dtype, ascend, expected):
    build, _ = case
    network = set_precision(build(), dtype, ascend)
    flags = [cell.flash for _, cell in network.cells_and_names() if hasattr(cell, "flash")]
    assert flags and set(flags) == {expected}


def test_the_latest_setting_holds():
    layer = set_precision(Attention(32, 2), ms.float16, ascend=True)
    assert layer.flash and layer.to_q.weight.dtype == ms.float16
    set_precision(layer, ms.float32, ascend=True)
    assert not layer.flash and layer.to_q.weight.dtype == ms.float32


def test_slices_of_pixels_change_nothing(mode, case, monkeypatch):
    """Convolutions over time as on Ascend, but of no more than 7 pixels at a time."""
    build, inputs = case
    whole = build()(*inputs)
    monkeypatch.setattr(axes, "MAX_WIDTH", 7)
    assert_close(set_precision(build(), ms.float32, ascend=True)(*inputs), whole, 1e-6)
