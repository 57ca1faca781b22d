"""The encoder of Stable Diffusion's autoencoder."""

import mindspore as ms
from mindspore import Tensor, nn

from svd.autoencoder.layers import SPATIAL_EPS, Middle, residual_blocks
from svd.config import AutoencoderConfig
from svd.layers.basic import Conv2d, GroupNorm, conv2d


class Downsample(nn.Cell):
    """[n c h w] -> [n c h/2 w/2]: a 3x3 convolution with stride 2, padded at the bottom and the right only."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2, pad_mode="pad", padding=(0, 1, 0, 1), has_bias=True)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class DownBlock(nn.Cell):
    """A level of the encoder: residual blocks, then half the resolution on all levels but the last."""

    def __init__(self, in_channels: int, channels: int, num_res_blocks: int, downsample: bool):
        super().__init__()
        self.has_downsample = downsample
        self.resnets = residual_blocks(in_channels, channels, num_res_blocks)
        if downsample:
            self.downsample = Downsample(channels)

    def construct(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        if self.has_downsample:
            x = self.downsample(x)
        return x


class Encoder(nn.Cell):
    """Images in [-1, 1], [n 3 h w] -> mean and log-variance of their latents, [n 2c h/8 w/8].

    `quant_conv`: a last 1x1 convolution, which the autoencoder of the conditioning image has.
    """

    def __init__(self, config: AutoencoderConfig, quant_conv: bool):
        super().__init__()
        self.compute_dtype = ms.float32  # svd.placement sets it
        widths = [mult * config.channels for mult in config.channel_mult]
        in_widths = [config.channels] + widths[:-1]
        last, moments = len(widths) - 1, 2 * config.latent_channels
        self.conv_in = conv2d(3, config.channels)
        self.down_blocks = nn.CellList(
            [
                DownBlock(in_widths[i], width, config.num_res_blocks, downsample=i < last)
                for i, width in enumerate(widths)
            ]
        )
        self.mid = Middle(widths[-1])
        self.norm_out = GroupNorm(widths[-1], SPATIAL_EPS, silu=True)
        self.conv_out = conv2d(widths[-1], moments)
        self.has_quant_conv = quant_conv
        if quant_conv:
            self.quant_conv = conv2d(moments, moments, 1)

    def construct(self, x: Tensor) -> Tensor:
        out_dtype = x.dtype
        x = self.conv_in(x.astype(self.compute_dtype))
        for block in self.down_blocks:
            x = block(x)
        x = self.conv_out(self.norm_out(self.mid(x)))
        if self.has_quant_conv:
            x = self.quant_conv(x)
        return x.astype(out_dtype)
