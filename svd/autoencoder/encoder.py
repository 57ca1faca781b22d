"""The encoder of Stable Diffusion's autoencoder."""

import mindspore as ms
from mindspore import Tensor, nn

from svd.autoencoder.layers import SPATIAL_EPS, Level, Middle
from svd.config import AutoencoderConfig
from svd.layers.basic import Conv2d, GroupNorm, conv2d


class Downsample(nn.Cell):
    """[n c h w] -> [n c h/2 w/2]: a 3x3 convolution with stride 2, padded at the bottom and the right only."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2, pad_mode="pad", padding=(0, 1, 0, 1), has_bias=True)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Encoder(nn.Cell):
    """Images in [-1, 1], [n 3 h w] -> mean and log-variance of their latents, [n 2c h/8 w/8].

    `quant_conv`: a last 1x1 convolution, which the autoencoder of the conditioning image has.
    """

    def __init__(self, config: AutoencoderConfig, quant_conv: bool):
        super().__init__()
        self.compute_dtype = ms.float32  # svd.placement sets it
        widths = [mult * config.channels for mult in config.channel_mult]
        moments = 2 * config.latent_channels
        self.conv_in = conv2d(3, config.channels)
        levels = []
        for i, (a, b) in enumerate(zip([config.channels] + widths, widths)):
            downsample = Downsample(b) if i < len(widths) - 1 else None
            levels.append(Level(a, b, config.num_res_blocks, downsample=downsample))
        self.down_blocks = nn.CellList(levels)
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
