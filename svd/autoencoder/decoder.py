"""The decoders: frame by frame (Stable Diffusion's) and over time (Stable Video Diffusion's)."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.autoencoder.layers import SPATIAL_EPS, Middle, apply_residual, residual_blocks
from svd.config import AutoencoderConfig
from svd.layers.axes import per_image
from svd.layers.basic import GroupNorm, SwapAxes, Upsample, conv2d
from svd.layers.marks import temporal


class UpBlock(nn.Cell):
    """A level of the decoder: residual blocks, then twice the resolution on all levels but the last."""

    def __init__(self, in_channels: int, channels: int, num_res_blocks: int, upsample: bool, temporal: bool):
        super().__init__()
        self.has_upsample = upsample
        self.resnets = residual_blocks(in_channels, channels, num_res_blocks, temporal)
        if upsample:
            self.upsample = Upsample(channels)

    def construct(self, x: Tensor, image_only: bool) -> Tensor:
        for resnet in self.resnets:
            x = apply_residual(resnet, x, image_only)
        if self.has_upsample:
            x = per_image(self.upsample, x)
        return x


class Decoder(nn.Cell):
    """Latents [n c h w] -> images in [-1, 1], [n 3 8h 8w]; with config.decoder `temporal` [b t c h w] -> [b t 3 8h 8w].

    The image decoder begins with a 1x1 convolution. The temporal one has temporal layers in every residual block and
    ends with a convolution over time; its normalisations span the frames, so the result depends on which frames are
    decoded together.
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.compute_dtype = ms.float32  # svd.placement sets it
        self.temporal = config.decoder == "temporal"
        widths = [mult * config.channels for mult in reversed(config.channel_mult)]
        in_widths = [widths[0]] + widths[:-1]
        last = len(widths) - 1
        if not self.temporal:
            self.post_quant_conv = conv2d(config.latent_channels, config.latent_channels, 1)
        self.conv_in = conv2d(config.latent_channels, widths[0])
        self.mid = Middle(widths[0], self.temporal)
        self.up_blocks = nn.CellList(
            [
                UpBlock(in_widths[i], width, config.num_res_blocks + 1, i < last, self.temporal)
                for i, width in enumerate(widths)
            ]
        )
        self.norm_out = GroupNorm(widths[-1], SPATIAL_EPS, silu=True)
        self.conv_out = conv2d(widths[-1], 3)
        if self.temporal:
            self.time_conv_out = temporal(conv2d(3, 3, (3, 1)))
            self.swap = SwapAxes()

    def construct(self, z: Tensor, image_only: bool = False) -> Tensor:
        """`image_only` leaves out the temporal layers that are blended with those of images (alpha = 1)."""
        out_dtype = z.dtype
        x = z.astype(self.compute_dtype)
        if not self.temporal:
            x = self.post_quant_conv(x)
        x = self.mid(per_image(self.conv_in, x), image_only)
        for block in self.up_blocks:
            x = block(x, image_only)
        x = per_image(self.norm_out, x)
        x = per_image(self.conv_out, x)
        if self.temporal:
            b, t, c, h, w = x.shape
            x = self.swap(ops.reshape(x, (b, t, c, h * w)))
            x = ops.reshape(self.swap(self.time_conv_out(x)), (b, t, c, h, w))
        return x.astype(out_dtype)
