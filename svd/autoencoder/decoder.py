"""The decoders: of images (Stable Diffusion's) and of videos (Stable Video Diffusion's)."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from svd.autoencoder.layers import SPATIAL_EPS, Level, Middle
from svd.config import AutoencoderConfig
from svd.layers.axes import per_image
from svd.layers.basic import GroupNorm, SwapAxes, Upsample, conv2d
from svd.layers.marks import temporal


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
        if not self.temporal:
            self.post_quant_conv = conv2d(config.latent_channels, config.latent_channels, 1)
        self.conv_in = conv2d(config.latent_channels, widths[0])
        self.mid = Middle(widths[0], self.temporal)
        levels = []
        for i, (a, b) in enumerate(zip(widths[:1] + widths, widths)):
            upsample = Upsample(b) if i < len(widths) - 1 else None
            levels.append(Level(a, b, config.num_res_blocks + 1, self.temporal, upsample=upsample))
        self.up_blocks = nn.CellList(levels)
        self.norm_out = GroupNorm(widths[-1], SPATIAL_EPS, silu=True)
        self.conv_out = conv2d(widths[-1], 3)
        if self.temporal:
            self.time_conv_out = temporal(conv2d(3, 3, (3, 1)))
            self.swap = SwapAxes()

    def construct(self, z: Tensor, image_only: bool = False) -> Tensor:
        """`image_only` leaves out the temporal layers that are blended with those of images (alpha = 1)."""
        return ops.cast(self.last_layer(self.features(z, image_only)), z.dtype)

    def features(self, z: Tensor, image_only: bool = False) -> Tensor:
        """What the last layer is given."""
        x = ops.cast(z, self.compute_dtype)
        if not self.temporal:
            x = self.post_quant_conv(x)
        x = self.mid(per_image(self.conv_in, x), image_only)
        for block in self.up_blocks:
            x = block(x, image_only)
        x = per_image(self.norm_out, x)
        if self.temporal:
            x = per_image(self.conv_out, x)
        return x

    def last_layer(self, x: Tensor) -> Tensor:
        """The last convolution, in the type of x: over frames if temporal, of an image otherwise."""
        if not self.temporal:
            return self.conv_out(x)
        b, t, c, h, w = x.shape
        x = self.swap(ops.reshape(x, (b, t, c, h * w)))
        return ops.reshape(self.swap(self.time_conv_out(x)), (b, t, c, h, w))

    def last_weight(self) -> Parameter:
        """Of `last_layer`."""
        return self.time_conv_out.weight if self.temporal else self.conv_out.weight
