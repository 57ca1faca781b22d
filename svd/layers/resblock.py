"""Residual blocks of convolutions, in space and in time."""

from typing import Optional

from mindspore import Tensor, nn, ops

from svd.layers.axes import fold_frames
from svd.layers.basic import GroupNorm, Linear, SwapAxes, conv2d, in_type_of
from svd.layers.blend import residual_blend
from svd.layers.marks import temporal, zero_init


class ResBlock(nn.Cell):
    """Twice norm, SiLU, convolution, with an embedding added in between, and a shortcut.

    The spatial one convolves [(b t) c h w] with 3x3, the temporal one [b c t (h w)] with 3x1, which equals a 3-D
    convolution (3,1,1) over [b c t h w] and also normalises over all frames.
    """

    is_block = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] = (3, 3),
        emb_dim: Optional[int] = None,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.has_emb = emb_dim is not None
        self.has_shortcut = in_channels != out_channels
        self.norm1 = GroupNorm(in_channels, eps, silu=True)
        self.conv1 = conv2d(in_channels, out_channels, kernel_size)
        if self.has_emb:
            self.emb_proj = Linear(emb_dim, out_channels)
        self.norm2 = GroupNorm(out_channels, eps, silu=True)
        self.conv2 = zero_init(conv2d(out_channels, out_channels, kernel_size))
        if self.has_shortcut:
            self.shortcut = conv2d(in_channels, out_channels, 1)

    def construct(self, x: Tensor, emb: Optional[Tensor] = None) -> Tensor:
        """x [n c p q], emb [n p e] or [n 1 e] (after its SiLU) -> [n c' p q]"""
        h = self.conv1.without_bias(self.norm1(x))
        shift = in_type_of(h, self.conv1.bias)  # added to every pixel, like the embedding
        if self.has_emb:  # noqa: SIM108 - graph mode would compile both
            shift = shift + self.emb_proj(emb)
        else:
            shift = ops.broadcast_to(shift, (h.shape[0], 1, h.shape[1]))
        if self.has_shortcut:
            x = self.shortcut(x)
        return self.conv2.add_to(x, self.norm2(h, shift))


def frame_by_frame(block: ResBlock, x: Tensor, emb: Optional[Tensor] = None) -> Tensor:
    """A spatial block on every frame: x [b t c h w], emb [b t e] -> [b t c' h w]"""
    b, t, _, h, w = x.shape
    emb_per_frame = None if emb is None else ops.expand_dims(fold_frames(emb), 1)
    return ops.reshape(block(fold_frames(x), emb_per_frame), (b, t, -1, h, w))


class VideoResBlock(nn.Cell):
    """A spatial residual block, a temporal one on its output, and their learned blend (VideoLDM, section 3.1).

    Args:
        clamped: whether alpha itself is the parameter, cut to [0, 1].
        frames_dim: channels of the features of given frames, which the temporal block's input gets; None: it has none.
    """

    is_block = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_dim: Optional[int] = None,
        spatial_eps: float = 1e-5,
        clamped: bool = False,
        frames_dim: Optional[int] = None,
    ):
        super().__init__()
        self.spatial = ResBlock(in_channels, out_channels, (3, 3), emb_dim, spatial_eps)
        self.temporal = temporal(ResBlock(out_channels, out_channels, (3, 1), emb_dim))
        self.swap = SwapAxes()
        self.blend = residual_blend(clamped)
        if frames_dim is not None:
            # without a bias: where no frames are given, nothing is added
            self.frames_proj = temporal(zero_init(conv2d(frames_dim, out_channels, 1, bias=False)))

    def construct(
        self,
        x: Tensor,
        emb: Optional[Tensor] = None,
        temporal_emb: Optional[Tensor] = None,
        image_only: bool = False,
        frames: Optional[Tensor] = None,
    ) -> Tensor:
        """x [b t c h w], emb of the spatial branch and temporal_emb of the temporal one [b t e] -> [b t c' h w]

        `frames` are features of given frames, [b t f h w].
        """
        spatial = frame_by_frame(self.spatial, x, emb)
        if image_only:
            return spatial
        b, t, c, h, w = spatial.shape
        temporal = spatial
        if frames is not None:
            temporal = spatial + ops.reshape(self.frames_proj.without_bias(fold_frames(frames)), spatial.shape)
        temporal = self.swap(ops.reshape(temporal, (b, t, c, h * w)))
        temporal = self.swap(self.temporal(temporal, temporal_emb))
        return self.blend(spatial, ops.reshape(temporal, (b, t, c, h, w)))
