"""What every tensor is called elsewhere: our names beside those of Stability's single file and of diffusers.

A table is a tuple of rows `(ours, sgm, diffusers[, table])`. A row renames the front of a name, up to a dot
or the end; the table in its last column renames the rest, and without one the rest is `.weight`, `.bias` or
nothing. `{i}` and `{j}` stand for numbers, the other names in braces for numbers that follow from them
(`_numbers`). `name : transform` says how the stored values differ; on a row for a weight and a bias it is
meant for the weight. `None`: not stored there. Only one direction is written down; the other is derived.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from svd.config import ModelConfig

Layout = Literal["svd", "sgm", "diffusers"]
Shape = tuple[int, ...]

# --- transforms ---


@dataclass(frozen=True)
class Transform:
    """How stored values differ: shapes and values from ours to theirs, and back."""

    shape: Callable[[Shape], Shape]
    to_theirs: Callable[[np.ndarray], np.ndarray]
    to_ours: Callable[[np.ndarray], np.ndarray]


def _third(index: int) -> Transform:
    """Ours is one of the three parts of theirs; theirs is put together from the three in turn."""
    return Transform(
        lambda s: (3 * s[0], *s[1:]),
        lambda x: x,
        lambda x: x[index * len(x) // 3 : (index + 1) * len(x) // 3],
    )


TRANSFORMS = {
    "same": Transform(lambda s: s, lambda x: x, lambda x: x),
    # [o i 3 1] over [b c t (h w)] is [o i 3 1 1] over [b c t h w]
    "temporal": Transform(lambda s: (*s, 1), lambda x: x[..., None], lambda x: x[..., 0]),
    # [o i] is [o i 1 1] over pixels
    "linear_1x1": Transform(lambda s: (*s, 1, 1), lambda x: x[..., None, None], lambda x: x[..., 0, 0]),
    "transpose": Transform(lambda s: s[::-1], lambda x: x.T, lambda x: x.T),
    # Our alpha weighs the spatial branch; theirs, in the decoder, the temporal one:
    # 1 - sigmoid(m) = sigmoid(-m).
    "negate": Transform(lambda s: s, np.negative, np.negative),
    "third_1": _third(0),
    "third_2": _third(1),
    "third_3": _third(2),
}

# --- tables ---

# ours                     Stability (sgm)         diffusers
_ATTENTION = (
    ("to_q",               "to_q",                 "to_q"),
    ("to_k",               "to_k",                 "to_k"),
    ("to_v",               "to_v",                 "to_v"),
    ("to_out",             "to_out.0",             "to_out.0"),
)  # fmt: skip
_FEED_FORWARD = (
    ("proj_in",            "net.0.proj",           "net.0.proj"),
    ("proj_out",           "net.2",                "net.2"),
)  # fmt: skip
_BLOCK = (
    ("norm_in",            "norm_in",              "norm_in"),
    ("ff_in",              "ff_in",                "ff_in", _FEED_FORWARD),
    ("norm1",              "norm1",                "norm1"),
    ("attn1",              "attn1",                "attn1", _ATTENTION),
    ("norm2",              "norm2",                "norm2"),
    ("attn2",              "attn2",                "attn2", _ATTENTION),
    ("norm3",              "norm3",                "norm3"),
    ("ff",                 "ff",                   "ff", _FEED_FORWARD),
)  # fmt: skip
_TRANSFORMER = (
    ("norm",                     "norm",                  "norm"),
    ("proj_in",                  "proj_in",               "proj_in"),
    ("spatial",                  "transformer_blocks.0",  "transformer_blocks.0", _BLOCK),
    ("temporal",                 "time_stack.0",          "temporal_transformer_blocks.0", _BLOCK),
    ("frame_embedding.linear_1", "time_pos_embed.0",      "time_pos_embed.linear_1"),
    ("frame_embedding.linear_2", "time_pos_embed.2",      "time_pos_embed.linear_2"),
    ("blend.mix_factor",         "time_mixer.mix_factor", "time_mixer.mix_factor"),
    ("proj_out",                 "proj_out",              "proj_out"),
)  # fmt: skip
_UNET_RESNET = (
    ("spatial.norm1",      "in_layers.0",                        "spatial_res_block.norm1"),
    ("spatial.conv1",      "in_layers.2",                        "spatial_res_block.conv1"),
    ("spatial.emb_proj",   "emb_layers.1",                       "spatial_res_block.time_emb_proj"),
    ("spatial.norm2",      "out_layers.0",                       "spatial_res_block.norm2"),
    ("spatial.conv2",      "out_layers.3",                       "spatial_res_block.conv2"),
    ("spatial.shortcut",   "skip_connection",                    "spatial_res_block.conv_shortcut"),
    ("temporal.norm1",     "time_stack.in_layers.0",             "temporal_res_block.norm1"),
    ("temporal.conv1",     "time_stack.in_layers.2 : temporal",  "temporal_res_block.conv1 : temporal"),
    ("temporal.emb_proj",  "time_stack.emb_layers.1",            "temporal_res_block.time_emb_proj"),
    ("temporal.norm2",     "time_stack.out_layers.0",            "temporal_res_block.norm2"),
    ("temporal.conv2",     "time_stack.out_layers.3 : temporal", "temporal_res_block.conv2 : temporal"),
    ("blend.mix_factor",   "time_mixer.mix_factor",              "time_mixer.mix_factor"),
)  # fmt: skip
_UNET = (
    ("conv_in",                   "input_blocks.0.0",     "conv_in"),
    ("time_embedding.linear_1",   "time_embed.0",         "time_embedding.linear_1"),
    ("time_embedding.linear_2",   "time_embed.2",         "time_embedding.linear_2"),
    ("vector_embedding.linear_1", "label_emb.0.0",        "add_embedding.linear_1"),
    ("vector_embedding.linear_2", "label_emb.0.2",        "add_embedding.linear_2"),
    ("down_blocks.{i}",           "input_blocks",         "down_blocks.{i}", (
        ("resnets.{j}",           "{down}.0",             "resnets.{j}", _UNET_RESNET),
        ("attentions.{j}",        "{down}.1",             "attentions.{j}", _TRANSFORMER),
        ("downsample.conv",       "{down_end}.0.op",      "downsamplers.0.conv"))),
    ("mid_block",                 "middle_block",         "mid_block", (
        ("resnets.0",             "0",                    "resnets.0", _UNET_RESNET),
        ("attentions.0",          "1",                    "attentions.0", _TRANSFORMER),
        ("resnets.1",             "2",                    "resnets.1", _UNET_RESNET))),
    ("up_blocks.{i}",             "output_blocks",        "up_blocks.{i}", (
        ("resnets.{j}",           "{up}.0",               "resnets.{j}", _UNET_RESNET),
        ("attentions.{j}",        "{up}.1",               "attentions.{j}", _TRANSFORMER),
        ("upsample.conv",         "{up_end}.{last}.conv", "upsamplers.0.conv"))),
    ("norm_out",                  "out.0",                "conv_norm_out"),
    ("conv_out",                  "out.2",                "conv_out"),
)  # fmt: skip
_IMAGE_RESNET = (
    ("norm1",              "norm1",                "norm1"),
    ("conv1",              "conv1",                "conv1"),
    ("norm2",              "norm2",                "norm2"),
    ("conv2",              "conv2",                "conv2"),
    ("shortcut",           "nin_shortcut",         "conv_shortcut"),
)  # fmt: skip
_VIDEO_RESNET = (
    ("spatial.norm1",      "norm1",                              "spatial_res_block.norm1"),
    ("spatial.conv1",      "conv1",                              "spatial_res_block.conv1"),
    ("spatial.norm2",      "norm2",                              "spatial_res_block.norm2"),
    ("spatial.conv2",      "conv2",                              "spatial_res_block.conv2"),
    ("spatial.shortcut",   "nin_shortcut",                       "spatial_res_block.conv_shortcut"),
    ("temporal.norm1",     "time_stack.in_layers.0",             "temporal_res_block.norm1"),
    ("temporal.conv1",     "time_stack.in_layers.2 : temporal",  "temporal_res_block.conv1 : temporal"),
    ("temporal.norm2",     "time_stack.out_layers.0",            "temporal_res_block.norm2"),
    ("temporal.conv2",     "time_stack.out_layers.3 : temporal", "temporal_res_block.conv2 : temporal"),
    ("blend.mix_factor",   "mix_factor : negate",                "time_mixer.mix_factor : negate"),
)  # fmt: skip
_PIXEL_ATTENTION = (
    ("norm",               "norm",                  "group_norm"),
    ("to_q",               "q : linear_1x1",        "to_q"),
    ("to_k",               "k : linear_1x1",        "to_k"),
    ("to_v",               "v : linear_1x1",        "to_v"),
    ("to_out",             "proj_out : linear_1x1", "to_out.0"),
)  # fmt: skip
_IMAGE_MIDDLE = (
    ("resnets.0",          "block_1",              "resnets.0", _IMAGE_RESNET),
    ("attention",          "attn_1",               "attentions.0", _PIXEL_ATTENTION),
    ("resnets.1",          "block_2",              "resnets.1", _IMAGE_RESNET),
)  # fmt: skip
_VIDEO_MIDDLE = (
    ("resnets.0",          "block_1",              "resnets.0", _VIDEO_RESNET),
    ("attention",          "attn_1",               "attentions.0", _PIXEL_ATTENTION),
    ("resnets.1",          "block_2",              "resnets.1", _VIDEO_RESNET),
)  # fmt: skip
_ENCODER = (
    ("conv_in",             "encoder.conv_in",      "encoder.conv_in"),
    ("down_blocks.{i}",     "encoder.down.{i}",     "encoder.down_blocks.{i}", (
        ("resnets.{j}",     "block.{j}",            "resnets.{j}", _IMAGE_RESNET),
        ("downsample.conv", "downsample.conv",      "downsamplers.0.conv"))),
    ("mid",                 "encoder.mid",          "encoder.mid_block", _IMAGE_MIDDLE),
    ("norm_out",            "encoder.norm_out",     "encoder.conv_norm_out"),
    ("conv_out",            "encoder.conv_out",     "encoder.conv_out"),
    ("quant_conv",          "quant_conv",           "quant_conv"),
)  # fmt: skip
_IMAGE_DECODER = (
    ("post_quant_conv",    "post_quant_conv",      None),
    ("conv_in",            "decoder.conv_in",      None),
    ("mid",                "decoder.mid",          None, _IMAGE_MIDDLE),
    ("up_blocks.{i}",      "decoder.up.{level}",   None, (
        ("resnets.{j}",    "block.{j}",            None, _IMAGE_RESNET),
        ("upsample.conv",  "upsample.conv",        None))),
    ("norm_out",           "decoder.norm_out",     None),
    ("conv_out",           "decoder.conv_out",     None),
)  # fmt: skip
_VIDEO_DECODER = (
    ("conv_in",            "decoder.conv_in",                           "decoder.conv_in"),
    ("mid",                "decoder.mid",                               "decoder.mid_block", _VIDEO_MIDDLE),
    ("up_blocks.{i}",      "decoder.up.{level}",                        "decoder.up_blocks.{i}", (
        ("resnets.{j}",    "block.{j}",                                 "resnets.{j}", _VIDEO_RESNET),
        ("upsample.conv",  "upsample.conv",                             "upsamplers.0.conv"))),
    ("norm_out",           "decoder.norm_out",                          "decoder.conv_norm_out"),
    ("conv_out",           "decoder.conv_out",                          "decoder.conv_out"),
    ("time_conv_out",      "decoder.conv_out.time_mix_conv : temporal", "decoder.time_conv_out : temporal"),
)  # fmt: skip
_CLIP_LAYER = (
    ("norm1",              "ln_1",                          "layer_norm1"),
    ("attn.to_q.weight",   "attn.in_proj_weight : third_1", "self_attn.q_proj.weight"),
    ("attn.to_k.weight",   "attn.in_proj_weight : third_2", "self_attn.k_proj.weight"),
    ("attn.to_v.weight",   "attn.in_proj_weight : third_3", "self_attn.v_proj.weight"),
    ("attn.to_q.bias",     "attn.in_proj_bias : third_1",   "self_attn.q_proj.bias"),
    ("attn.to_k.bias",     "attn.in_proj_bias : third_2",   "self_attn.k_proj.bias"),
    ("attn.to_v.bias",     "attn.in_proj_bias : third_3",   "self_attn.v_proj.bias"),
    ("attn.to_out",        "attn.out_proj",                 "self_attn.out_proj"),
    ("norm2",              "ln_2",                          "layer_norm2"),
    ("mlp.fc1",            "mlp.c_fc",                      "mlp.fc1"),
    ("mlp.fc2",            "mlp.c_proj",                    "mlp.fc2"),
)  # fmt: skip
_CLIP = (
    ("class_embedding",    "class_embedding",           "vision_model.embeddings.class_embedding"),
    ("position_embedding", "positional_embedding",      "vision_model.embeddings.position_embedding.weight"),
    ("patch_embedding",    "conv1",                     "vision_model.embeddings.patch_embedding"),
    ("norm_pre",           "ln_pre",                    "vision_model.pre_layrnorm"),
    ("layers.{i}",         "transformer.resblocks.{i}", "vision_model.encoder.layers.{i}", _CLIP_LAYER),
    ("norm_post",          "ln_post",                   "vision_model.post_layernorm"),
    ("projection.weight",  "proj : transpose",          "visual_projection.weight"),
)  # fmt: skip

CLIP_SGM = "conditioner.embedders.0.open_clip.model.visual"
IMAGE_SGM = "conditioner.embedders.3.encoder"
_COMMON = (
    ("network",                         "model.diffusion_model",           "unet", _UNET),
    ("conditioner.image_encoder",       CLIP_SGM,                         "image_encoder", _CLIP),
    ("conditioner.autoencoder.encoder", IMAGE_SGM, "vae", _ENCODER),
    ("conditioner.autoencoder.decoder", IMAGE_SGM, None, _IMAGE_DECODER),
    ("autoencoder.encoder",             "first_stage_model",               None, _ENCODER),
)  # fmt: skip
_MODELS = {
    "temporal": (*_COMMON, ("autoencoder.decoder", "first_stage_model", "vae", _VIDEO_DECODER)),
    "image": (*_COMMON, ("autoencoder.decoder", "first_stage_model", None, _IMAGE_DECODER)),
}

OPTIONAL_GROUPS = {
    "autoencoder.encoder.": "the encoder of the first stage",
    "conditioner.autoencoder.decoder.": "the decoder of the conditioner's autoencoder",
}
"""Groups that a checkpoint has as a whole or not at all; image-to-video does not use them."""

ROOTS: dict[Layout, str] = {"svd": "network.", "sgm": "model.diffusion_model.", "diffusers": "unet."}
"""How the names of the UNet begin, by which a layout is recognised."""
NETWORKS: dict[Layout, dict[str, tuple[str, ...]]] = {
    "svd": {
        "UNet": ("network.",),
        "image encoder (CLIP)": ("conditioner.image_encoder.",),
        "autoencoder": ("autoencoder.decoder.",),
    },
    "sgm": {
        "UNet": ("model.diffusion_model.",),
        "image encoder (CLIP)": (f"{CLIP_SGM}.",),
        "autoencoder": ("first_stage_model.decoder.",),
        "encoder of an autoencoder": ("first_stage_model.encoder.", f"{IMAGE_SGM}."),
    },
    "diffusers": {
        "UNet": ("unet.",),
        "image encoder (CLIP)": ("image_encoder.",),
        "autoencoder": ("vae.",),
    },
}
"""What a model cannot do without, and how its names begin."""

MINDSPORE_ALIASES = ((".gamma", ".weight"), (".beta", ".bias"))
"""Ends of names that MindSpore's own normalisations give."""
_COMFYUI_MARKS = (".scaled_fp8", ".scale_input", ".input_scale", ".comfy_quant", ".v_pred")
"""Ends of names of what ComfyUI notes beside weights: how they are scaled, and what inputs are scaled by."""

# --- expansion ---


@dataclass(frozen=True)
class Entry:
    """One tensor of ours and where it is found in another layout."""

    ours: str
    theirs: str
    transform: str


def expand(layout: Layout, config: ModelConfig, names: Iterable[str]) -> list[Entry]:
    """The entries of every name of ours that the other layout stores, in the order of `names`."""
    if layout == "svd":
        return [Entry(name, name, "same") for name in names]
    table, column = _MODELS[config.autoencoder.decoder], {"sgm": 1, "diffusers": 2}[layout]
    found = ((name, _translate(name, table, column, config, {})) for name in names)
    return [Entry(name, *translated) for name, translated in found if translated is not None]


def _translate(
    name: str, table: tuple, column: int, config: ModelConfig, numbers: dict[str, int]
) -> tuple[str, str] | None:
    """(their name, transform) of one of our names; None when they do not store it."""
    for row in table:
        match = re.match(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(row[0])) + r"(?:\.|$)", name)
        if match is None:
            continue
        if row[column] is None:
            return None
        numbers = numbers | {key: int(value) for key, value in match.groupdict().items()}
        theirs, _, transform = row[column].partition(" : ")
        theirs = theirs.format(**_numbers(config, **numbers))
        rest = name[match.end() :]
        if len(row) > 3:
            inner = _translate(rest, row[3], column, config, numbers)
            return inner and (f"{theirs}.{inner[0]}", inner[1])
        if rest in ("", "weight", "bias"):
            return f"{theirs}.{rest}".rstrip("."), "same" if rest == "bias" else transform or "same"
    raise LookupError(f"no row of the tables is for {name}")


def _numbers(config: ModelConfig, i: int = 0, j: int = 0) -> dict[str, int]:
    """The numbers of a row: sgm counts all blocks of the UNet through, and the decoder's levels backwards."""
    unet, levels = config.unet, len(config.autoencoder.channel_mult)
    per_level = unet.num_res_blocks + 1
    factor = 2 ** max(0, len(unet.channel_mult) - 1 - i)  # of the UNet's i-th level on the way up
    return {
        "i": i,
        "j": j,
        "down": 1 + i * per_level + j,
        "down_end": (i + 1) * per_level,
        "up": i * per_level + j,
        "up_end": i * per_level + unet.num_res_blocks,
        "last": 2 if factor in unet.attention_resolutions else 1,  # behind the transformer, where there is one
        "level": levels - 1 - i,
    }


# --- names of files as they are found ---


def detect_layout(names: Iterable[str]) -> Layout | None:
    """Whose names these are; None for another model's."""
    for layout, prefix in ROOTS.items():
        if any(name.startswith(prefix) for name in names):
            return layout
    return None


def plain_name(name: str) -> str:
    """The name without what MindSpore's (and mindone's) own modules add to it."""
    for end, plain in MINDSPORE_ALIASES:
        if name.endswith(end):
            name = name.removesuffix(end) + plain
    return name.replace(".conv_out.conv3d.", ".conv_out.time_mix_conv.")


def is_leftover(name: str, shape: Shape) -> bool:
    """Whether a tensor is no part of the model: CLIP's text tower, position indices, numbers, ComfyUI's notes."""
    clip, visual = CLIP_SGM.removesuffix("visual"), f"{CLIP_SGM}."
    text_tower = name.startswith(clip) and not name.startswith(visual)
    positions = name.endswith(".vision_model.embeddings.position_ids")
    return text_tower or positions or shape == () or name.endswith(_COMFYUI_MARKS)
