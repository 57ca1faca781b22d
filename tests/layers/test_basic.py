"""Convolutions, normalisations and upsampling against NumPy and, where it is installed, PyTorch."""

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor
from small_model import fill

from svd.layers.basic import GroupNorm, LayerNorm, Upsample, conv2d, upsample_nearest

RNG = np.random.default_rng(0)


def normalise(x: np.ndarray, axes, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + eps)


def group_normalise(x: np.ndarray, layer: GroupNorm) -> np.ndarray:
    grouped = x.reshape(x.shape[0], layer.groups, -1)
    y = normalise(grouped, 2, layer.eps).reshape(x.shape)
    weight, bias = (p.asnumpy().reshape(-1, *[1] * (x.ndim - 2)) for p in (layer.weight, layer.bias))
    return y * weight + bias


@pytest.mark.parametrize("shape", [(2, 64, 3, 5), (1, 64, 7)])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_group_norm(mode, shape, eps):
    layer = fill(GroupNorm(64, eps))
    x = 2 + 0.5 * RNG.standard_normal(shape).astype(np.float32)
    assert_close(layer(Tensor(x)), group_normalise(x, layer), 2e-6)


def test_group_norm_needs_channels_that_divide():
    with pytest.raises(ValueError, match="48 channels do not divide into 32 groups"):
        GroupNorm(48)


def test_layer_norm(mode):
    layer = fill(LayerNorm(24, eps=0.1))
    x = 2 + 0.5 * RNG.standard_normal((2, 3, 24)).astype(np.float32)
    expected = normalise(x, -1, 0.1) * layer.weight.asnumpy() + layer.bias.asnumpy()
    assert_close(layer(Tensor(x)), expected, 2e-6)


@pytest.mark.parametrize("layer", [GroupNorm(32), LayerNorm(512)], ids=["group", "layer"])
def test_float16_is_normalised_in_float32(mode, layer):
    """Sums of squares of values around 300 overflow float16, whose largest number is 65504."""
    x = (300 + 2 * RNG.standard_normal((2, 32, 512))).astype(np.float16)
    result = layer(Tensor(x))
    assert result.dtype == ms.float16
    expected = group_normalise(x, layer) if isinstance(layer, GroupNorm) else normalise(x, -1, 1e-5)
    np.testing.assert_allclose(result.asnumpy(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kernel, stride", [((3, 3), 1), ((3, 1), 1), ((1, 1), 1), ((3, 3), 2)])
def test_conv2d_pads_as_pytorch_does(mode, kernel, stride):
    layer = fill(conv2d(4, 6, kernel, stride))
    x = RNG.standard_normal((2, 4, 5, 7)).astype(np.float32)
    weight, bias = layer.weight.asnumpy(), layer.bias.asnumpy()
    padding = [k // 2 for k in kernel]
    padded = np.pad(x, [(0, 0), (0, 0), *[(p, p) for p in padding]])
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, (2, 3))[:, :, ::stride, ::stride]
    expected = np.tensordot(windows, weight, [(1, 4, 5), (1, 2, 3)]).transpose(0, 3, 1, 2)
    assert_close(layer(Tensor(x)), expected + bias[:, None, None], 2e-6)


def test_upsample_nearest_repeats_every_pixel():
    x = RNG.standard_normal((2, 3, 2, 5)).astype(np.float32)
    np.testing.assert_array_equal(upsample_nearest(Tensor(x)).asnumpy(), x.repeat(2, 2).repeat(2, 3))


def test_upsample_convolves_after_it_repeats(mode):
    layer = fill(Upsample(4))
    x = RNG.standard_normal((1, 4, 3, 5)).astype(np.float32)
    assert_close(layer(Tensor(x)), layer.conv(Tensor(x.repeat(2, 2).repeat(2, 3))), 2e-6)


def test_temporal_convolution_equals_a_3d_convolution_in_numpy(mode):
    """[b c t (h w)] with a kernel (3, 1): every pixel sees itself one frame before and after."""
    x, weight, bias, result = convolve_in_time()
    before, after = np.zeros_like(x), np.zeros_like(x)
    before[:, :, 1:], after[:, :, :-1] = x[:, :, :-1], x[:, :, 1:]
    taps = zip((before, x, after), np.moveaxis(weight[..., 0], 2, 0))
    expected = sum(np.einsum("bcthw,oc->bothw", frames, tap) for frames, tap in taps)
    assert_close(result, expected + bias[:, None, None, None], 2e-6)


def test_temporal_convolution_equals_pytorch_conv3d(mode):
    torch = pytest.importorskip("torch")
    x, weight, bias, result = convolve_in_time()
    layer = torch.nn.Conv3d(32, 64, (3, 1, 1), padding=(1, 0, 0))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight[..., None]))
        layer.bias.copy_(torch.from_numpy(bias))
        assert_close(result, layer(torch.from_numpy(x)), 2e-6)


def convolve_in_time():
    """x [b c t h w], weight, bias, and our result [b c' t h w]."""
    layer = fill(conv2d(32, 64, (3, 1)))
    x = RNG.standard_normal((2, 32, 5, 2, 3)).astype(np.float32)
    result = layer(Tensor(x.reshape(2, 32, 5, 6))).asnumpy().reshape(2, 64, 5, 2, 3)
    return x, layer.weight.asnumpy(), layer.bias.asnumpy(), result
