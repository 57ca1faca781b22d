"""The two decoders: which frames and clips see each other."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor
from small_model import SMALL, fill

from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.config import AutoencoderConfig

RNG = np.random.default_rng(0)
Z = RNG.standard_normal((2, 3, 4, 4, 5)).astype(np.float32)


def constant(parameter: ms.Parameter, value) -> None:
    """Write a value, broadcast to the parameter's shape, in place."""
    parameter.set_data(Tensor(np.broadcast_to(np.float32(value), parameter.shape).copy()))


def test_clips_are_independent_and_frames_are_not(eager):
    """A graph of two clips is compared with diffusers' (parity/test_diffusers.py)."""
    decoder = fill(Decoder(SMALL.autoencoder))
    together = decoder(Tensor(Z)).asnumpy()
    assert_close(together, np.concatenate([decoder(Tensor(Z[i : i + 1])).asnumpy() for i in (0, 1)]))
    changed = Z.copy()
    changed[0, 0] += 1
    difference = np.abs(decoder(Tensor(changed)).asnumpy() - together)
    assert difference[0, 2].max() > 0.01 and difference[1].max() < 1e-4


def test_all_space_is_the_image_decoder(eager):
    """alpha = 1, nothing mixed over time at the end, and no first 1x1 convolution: both give the same frames."""
    image, video = fill(Decoder(replace(SMALL.autoencoder, decoder="image"))), fill(Decoder(SMALL.autoencoder))
    eye = np.eye(4)[:, :, None, None]
    values = {"post_quant_conv.weight": eye, "post_quant_conv.bias": 0}
    for parameter in image.get_parameters():
        if parameter.name in values:
            constant(parameter, values[parameter.name])
    spatial = {parameter.name: parameter for parameter in image.get_parameters()}
    for parameter in video.get_parameters():
        if parameter.name.endswith("mix_factor"):
            constant(parameter, 100)
        elif parameter.name.replace(".spatial.", ".") in spatial:
            constant(parameter, spatial[parameter.name.replace(".spatial.", ".")].asnumpy())
    middle = np.zeros((3, 3, 3, 1))
    middle[:, :, 1, 0] = np.eye(3)
    constant(video.time_conv_out.weight, middle)
    constant(video.time_conv_out.bias, 0)
    frames = image(Tensor(Z.reshape(6, 4, 4, 5))).asnumpy()
    assert_close(video(Tensor(Z)), frames.reshape(2, 3, 3, 8, 10))


@pytest.mark.parametrize("levels", [1, 3])
def test_each_level_but_the_last_doubles_the_size(eager, levels):
    config = AutoencoderConfig(channels=32, channel_mult=[1] * levels, num_res_blocks=1)
    scale = config.downsampling
    assert scale == 2 ** (levels - 1)
    video = fill(Decoder(config))(Tensor(Z[:1, :1]))
    assert video.shape == (1, 1, 3, 4 * scale, 5 * scale)
    assert fill(Encoder(config, quant_conv=False))(video[0]).shape == (1, 8, 4, 5)


def test_the_encoder_with_and_without_its_last_convolution(eager):
    image = Tensor(RNG.uniform(-1, 1, (1, 3, 8, 12)).astype(np.float32))
    plain, with_quant = fill(Encoder(SMALL.autoencoder, quant_conv=False)), fill(Encoder(SMALL.autoencoder, True))
    weight, bias = with_quant.quant_conv.weight.asnumpy()[..., 0, 0], with_quant.quant_conv.bias.asnumpy()
    expected = np.einsum("oc,bchw->bohw", weight, plain(image).asnumpy()) + bias[:, None, None]
    assert_close(with_quant(image), expected)
