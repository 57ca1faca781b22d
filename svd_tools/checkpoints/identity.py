"""Which model a checkpoint is of, by a few names and shapes, and whether the configuration is that of such a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Optional, TypeVar

from svd.checkpoints.tensor_files import LazyTensor
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ImageLDMConfig, Model, ModelConfig, UpsamplerConfig
from svd.config.temporal import ModelScopeLayers, MotionModules, TextAttentionLayers, VideoLDMLayers
from svd_tools.checkpoints.layout import kind_of
from svd_tools.checkpoints.layouts import KIND_TITLES, TEXT_KINDS
from svd_tools.checkpoints.tables import Shape

T = TypeVar("T")

_SPATIAL = r"(?:(?<!temp_)attentions\.\d+|output_blocks\.\d+\.1|input_blocks\.(?!0\.)\d+\.1|middle_block\.1)"
_CROSS_ATTENTION = rf"{_SPATIAL}\.transformer_blocks\.0\.attn2\.to_k\.weight$"
_OWN_ATTENTION = r"^network\..*attentions\.\d+\.spatial\.attn2\.to_k\.weight$"
_FIRST_CONVOLUTION = r"(?:^|\.)input_blocks\.0\.0\.weight$|^(?:unet\.)?conv_in\.weight$"
_LEVELS = r"^(model\.diffusion_model\.)?label_emb\.weight$|^(unet\.)?class_embedding\.weight$"
_POSITIONS = r"motion_modules\..*\.pe$"

_OTHERS = (
    (r"(^|\.)(control_model|input_hint_block|controlnet_\w+)\.", "a ControlNet"),
    (r"^conditioner\.embedders\.1\.model\.|^text_encoder_2\.", "Stable Diffusion XL"),
    (r"^conditioner\.embedders\.0\.model\.transformer\.", "the refiner of Stable Diffusion XL"),
    (r"(attentions\.\d+|blocks?\.\d+(\.\d+)?)\.transformer_blocks\.[1-9]\d*\.", "Stable Diffusion XL"),
    (r"(^|\.)(joint_blocks|double_blocks|single_transformer_blocks)\.\d+\.|(^|\.)transformer_blocks\.[1-9]\d*\.",
     "a diffusion transformer (such as Stable Diffusion 3)"),
    (r"(^|\.)(init_attn|image_proj_model)\.", "VideoCrafter or DynamiCrafter"),
    (r"(^|\.)image_latents_proj_in\.", "I2VGen-XL"),
)  # fmt: skip
"""Names that only models that are not supported have, and what they are called."""
_BY_CHANNELS = {9: "an inpainting model", 5: "a model that is given depth",
                8: "a model that is given an image (InstructPix2Pix)"}  # fmt: skip
"""What variants of Stable Diffusion with other channels than those of latents are."""
_KINDS = (
    (r"(^|\.)time_stack\.|\.spatial_res_block\.|\.temporal_transformer_blocks\.|^conditioner\.", ModelConfig),
    (r"(^|\.)motion_modules\.", MotionModules),
    (r"\.(temopral_conv|temp_convs)\.", ModelScopeLayers),
    (r"\.tempo_attns\.", TextAttentionLayers),
    (_LEVELS, UpsamplerConfig),
    (_CROSS_ATTENTION, ImageLDMConfig),
)
"""Names that the kinds of models have in the layouts of others; the first that is found counts."""
_BESIDE = "; give it as image_model beside temporal layers, or convert it with a config of its own"
_REMEDIES = {
    VideoLDMLayers: "; convert it with a config of its own, and begin temporal layers over it with svd initialize"
}
"""What to do with an image model where a config has temporal layers: those of VideoLDM are not published."""
VERSIONS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
"""By the channels of the text that cross-attention sees."""


def check_identity(source: str, tensors: Mapping[str, LazyTensor], config: Model) -> None:
    """Raise CheckpointError, which names the model, if the configuration is not of such a model as this checkpoint.

    Args:
        source: name of the checkpoint in messages.
        tensors: by the names of any layout.
    """
    if other := _first(tensors, _OTHERS):
        raise CheckpointError(f"{source} is {other}: such models are not supported")
    kind, wanted = _first(tensors, _KINDS), kind_of(config)
    if kind not in (None, wanted):
        remedy = _REMEDIES.get(wanted, _BESIDE) if kind is ImageLDMConfig and wanted in TEXT_KINDS else ""
        raise CheckpointError(
            f"{source} is of another kind of model, {KIND_TITLES[kind]}; the config is of {KIND_TITLES[wanted]}{remedy}"
        )
    if not isinstance(config, ImageLDMConfig):
        return
    channels, context = _shape(tensors, _FIRST_CONVOLUTION), _shape(tensors, f"{_CROSS_ATTENTION}|{_OWN_ATTENTION}")
    if len(channels) == 4 and channels[1] != config.unet.in_channels and channels[1] in _BY_CHANNELS:
        what = _BY_CHANNELS[channels[1]]
        raise CheckpointError(f"{source} is {what} ({channels[1]} channels): such models are not supported")
    if len(context) == 2 and context[1] != config.unet.context_dim:
        version = VERSIONS.get(context[1], "another model")
        raise CheckpointError(
            f"{source} is of {version}: its cross-attention sees {context[1]} channels, and that of the config "
            f"(unet.context_dim) {config.unet.context_dim}"
        )
    if wanted is MotionModules:
        _check_motion_modules(source, tensors, config.temporal.layers)


def _check_motion_modules(source: str, tensors: Mapping[str, LazyTensor], config: MotionModules) -> None:
    """Raise CheckpointError for motion modules of another version."""
    modules = [name for name in tensors if re.search(r"(^|\.)motion_modules\.", name)]
    if not modules:
        return
    levels = {match[1] for name in modules if (match := re.search(r"down_blocks\.(\d+)\.", name))}
    if len(levels) == 3 and _shape(tensors, r"down_blocks\.0\.motion_modules\..*proj_in\.weight$") == (320, 320):
        raise CheckpointError(f"{source} has motion modules for Stable Diffusion XL: such models are not supported")
    positions = _shape(tensors, _POSITIONS)
    if len(positions) == 3 and positions[1] != config.max_frames:
        raise CheckpointError(
            f"{source} has motion modules for {positions[1]} frames (24 in v1, 32 in v2 and v3), and the config "
            f"(temporal.motion_modules.max_frames) for {config.max_frames}"
        )
    middle = any("mid_block." in name for name in modules)
    if middle != config.middle:
        version = "one in the middle, as v2 has" if middle else "none in the middle, as v1 and v3"
        raise CheckpointError(
            f"{source} has motion modules with {version}, but the config says "
            f"temporal.motion_modules.middle: {str(config.middle).lower()}"
        )


def check_motion_base(config: Model) -> None:
    """Raise CheckpointError for motion modules of others over an image model that they were not trained for."""
    unet = config.unet
    second = unet.context_dim == 1024 or (unet.context_dim != 768 and not unet.convolution_projection)
    if kind_of(config) is MotionModules and second:
        raise CheckpointError(
            "AnimateDiff's motion modules were trained over Stable Diffusion 1, and do not fit Stable Diffusion 2, "
            "which is what the config and image_model are of",
            setting="image_model",
        )


def _first(names: Iterable[str], table: Iterable[tuple[str, T]]) -> Optional[T]:
    """What a table says of the first of its patterns that is in one of the names; None if none is."""
    return next((value for pattern, value in table if any(re.search(pattern, name) for name in names)), None)


def _shape(tensors: Mapping[str, LazyTensor], pattern: str) -> Shape:
    """The shape of the first tensor with such a name; empty if there is none."""
    return next((tensor.shape for name, tensor in tensors.items() if re.search(pattern, name)), ())
