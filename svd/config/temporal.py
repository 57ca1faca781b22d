"""The temporal layers that a video model adds to an image model: a dataclass per kind of layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Literal, Optional

from svd.config.checks import check_heads, check_most, check_positive
from svd.errors import check

INTERPOLATION = 4
"""Frames that interpolation makes of one (VideoLDM, section 3.3)."""


@dataclass
class VideoLDMLayers:
    """VideoLDM's (arXiv 2304.08818, section 3.1): convolutions over time, attention over frames, an alpha each."""

    positions: Literal["sinusoidal", "relative"] = "sinusoidal"
    """How attention over frames knows their order: embeddings added to its input, or a learned bias by distance."""
    distance: Optional[int] = None
    """Frames further apart than this do not attend to each other, so that longer videos run convolutionally in time
    (appendix of the paper); relative positions alone have it, and need it."""
    text: bool = False
    """Whether temporal layers attend to the text, too."""
    alpha: Literal["sigmoid", "clamped"] = "sigmoid"
    """The weight of the spatial branch: the sigmoid of a parameter, or a parameter clamped to [0, 1]."""
    fps: bool = False
    """Whether temporal layers are conditioned on the frame rate."""
    motion: bool = False
    """Whether temporal layers are conditioned on the motion bucket."""
    rates: list[float] = field(default_factory=list)
    """Frame rates that one model learns, increasing: it is told the number of the nearest by a label (section 3.3)."""
    frames: bool = False
    """Whether temporal layers can be given frames, for prediction and interpolation (sections 3.2 and 3.3)."""

    def __post_init__(self):
        check_positive(self, "temporal.video_ldm")
        check_most(self, "temporal.video_ldm", distance=1024, rates=1000)
        rates = self.rates
        check(
            len(rates) != 1 and all(0 < a < b for a, b in zip(rates, rates[1:])),
            f"temporal.video_ldm.rates must be two frame rates or more, increasing, got {rates}",
        )
        check(
            (self.positions == "relative") == (self.distance is not None),
            f"temporal.video_ldm.distance belongs to positions: relative, got {self.distance} and {self.positions}",
        )

    @property
    def told(self) -> int:
        """How many numbers temporal layers are conditioned on: frame rate, motion bucket, label of the rate."""
        return self.fps + self.motion + bool(self.rates)

    def rate_of(self, fps: float) -> int:
        """The label of a frame rate: the number of the nearest of `rates`, by ratio."""
        return min(range(len(self.rates)), key=lambda i: abs(log(self.rates[i] / fps)))


@dataclass
class MotionModules:
    """AnimateDiff's motion modules (arXiv 2307.04725); the defaults are those of v3."""

    heads: int = 8
    """Attention heads at every level."""
    max_frames: int = 32
    """Frames that there are positions for: 24 in v1, 32 in v2 and v3."""
    middle: bool = False
    """Whether the middle of the UNet has one (v2)."""
    norm: Literal["frame", "clip"] = "frame"
    """Group normalisation of every frame by itself, as the authors' code, or over all frames, as diffusers'."""
    joint_resnet_norm: bool = False
    """Whether the spatial residual blocks normalise over all frames, too (v1 in the authors' code)."""

    def __post_init__(self):
        check_positive(self, "temporal.motion_modules")
        check_most(self, "temporal.motion_modules", heads=1024, max_frames=1024)


@dataclass
class ModelScopeLayers:
    """ModelScope's (arXiv 2308.06571), which ZeroScope shares: four convolutions over time, and attention over frames
    without positions; no alpha.
    """

    num_head_channels: int = 64
    """Channels of each head of the temporal attention."""
    entry_heads: int = 8
    """Heads of the temporal transformer after the first convolution, of num_head_channels each."""

    def __post_init__(self):
        check_positive(self, "temporal.modelscope")
        check_most(self, "temporal.modelscope", num_head_channels=8192, entry_heads=1024)


@dataclass
class TextAttentionLayers:
    """Those of the published ports of VideoLDM (srpkdyy/VideoLDM), whose temporal attention sees the text alone."""

    heads: int = 8
    """Heads of the temporal attention."""

    def __post_init__(self):
        check_positive(self, "temporal.text_attention")
        check_most(self, "temporal.text_attention", heads=1024)


@dataclass
class TemporalConfig:
    """The temporal layers: one kind of them; VideoLDM's own if none is chosen."""

    video_ldm: Optional[VideoLDMLayers] = None
    """VideoLDM's own."""
    motion_modules: Optional[MotionModules] = None
    """AnimateDiff's."""
    modelscope: Optional[ModelScopeLayers] = None
    """ModelScope's and ZeroScope's."""
    text_attention: Optional[TextAttentionLayers] = None
    """Those of srpkdyy/VideoLDM."""

    def __post_init__(self):
        given = [name for name, value in vars(self).items() if value is not None]
        check(len(given) <= 1, f"temporal takes one kind of layers, got {' and '.join(given)}")

    @property
    def layers(self) -> VideoLDMLayers | MotionModules | ModelScopeLayers | TextAttentionLayers:
        """The settings of the kind that was chosen; VideoLDM's own if none was."""
        return next((value for value in vars(self).values() if value is not None), VideoLDMLayers())

    @property
    def sees_text(self) -> bool:
        """Whether temporal layers attend to the text."""
        return self.text_attention is not None or getattr(self.layers, "text", False)

    def check_channels(self, levels: list[int]) -> None:
        """Raise ConfigError if the heads do not divide the channels of a level."""
        for kind, layers in vars(self).items():
            for name in ("heads", "num_head_channels"):  # VideoLDM's own have neither: the heads of the image model
                if hasattr(layers, name):
                    check_heads(f"temporal.{kind}.{name}", getattr(layers, name), levels)
