"""The UNets of models that are given text: our names beside those of the single file of Stable Diffusion (sgm), of
diffusers and, for motion modules alone, of AnimateDiff's authors.

Spatial layers have the same names in all of them; a kind of temporal layers adds rows in front of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from svd.config import ImageLDMConfig, VideoLDMConfig
from svd.config.temporal import ModelScopeLayers
from svd_tools.checkpoints.names import unet
from svd_tools.checkpoints.names.unet import ATTENTION, BLOCK, FEED_FORWARD
from svd_tools.checkpoints.tables import Table

_COLUMNS = ("sgm", "diffusers", "animatediff")


def _numbers(config: ImageLDMConfig, i: int, j: int) -> dict[str, int | str]:
    """As in SVD's UNet; ModelScope's file has a temporal transformer after each spatial one."""
    numbers = unet.numbers(config, i, j)
    after = isinstance(config, VideoLDMConfig) and isinstance(config.temporal.layers, ModelScopeLayers)
    return numbers | {
        "middle": (2 + after) * j,
        "last": numbers["last"] + (after and numbers["last"] > 1),
        "linear": "linear_1x1" if config.unet.convolution_projection else "same",
    }


# ours                     single file (sgm)       diffusers
_RESNET = Table(_COLUMNS[:2], (
    ("spatial.norm1",      "in_layers.0",          "norm1"),
    ("spatial.conv1",      "in_layers.2",          "conv1"),
    ("spatial.emb_proj",   "emb_layers.1",         "time_emb_proj"),
    ("spatial.norm2",      "out_layers.0",         "norm2"),
    ("spatial.conv2",      "out_layers.3",         "conv2"),
    ("spatial.shortcut",   "skip_connection",      "conv_shortcut"),
))  # fmt: skip
_TRANSFORMER = Table(_COLUMNS[:2], (
    ("norm",               "norm",                 "norm"),
    ("proj_in",            "proj_in : {linear}",   "proj_in : {linear}"),
    ("spatial",            "transformer_blocks.0", "transformer_blocks.0", BLOCK),
    ("proj_out",           "proj_out : {linear}",  "proj_out : {linear}"),
))  # fmt: skip


def _unet(temporal: Callable[[str, str], tuple] = lambda resnet, attention: (), entry: tuple = ()) -> Table:
    """The table of a UNet.

    Args:
        temporal: of a residual block's place and of that after its transformer in the single file, the rows of the
            temporal layers there.
        entry: the row of what follows the first convolution, or is beside it.
    """
    return Table(_COLUMNS, (
        ("conv_in",                 "input_blocks.0.0",     "conv_in",                   None),
        *entry,
        ("time_embedding.linear_1", "time_embed.0",         "time_embedding.linear_1",   None),
        ("time_embedding.linear_2", "time_embed.2",         "time_embedding.linear_2",   None),
        ("down_blocks.{i}",         "input_blocks",         "down_blocks.{i}",           "down_blocks.{i}", (
            *temporal("{down}.0", "{down}.2"),
            ("resnets.{j}",         "{down}.0",             "resnets.{j}",               None, _RESNET),
            ("attentions.{j}",      "{down}.1",             "attentions.{j}",            None, _TRANSFORMER),
            ("downsample.conv",     "{down_end}.0.op",      "downsamplers.0.conv",       None))),
        ("mid_block",               "middle_block",         "mid_block",                 "mid_block", (
            *temporal("{middle}", "2"),
            ("resnets.{j}",         "{middle}",             "resnets.{j}",               None, _RESNET),
            ("attentions.{j}",      "1",                    "attentions.{j}",            None, _TRANSFORMER))),
        ("up_blocks.{i}",           "output_blocks",        "up_blocks.{i}",             "up_blocks.{i}", (
            *temporal("{up}.0", "{up}.2"),
            ("resnets.{j}",         "{up}.0",               "resnets.{j}",               None, _RESNET),
            ("attentions.{j}",      "{up}.1",               "attentions.{j}",            None, _TRANSFORMER),
            ("upsample.conv",       "{up_end}.{last}.conv", "upsamplers.0.conv",         None))),
        ("norm_out",                "out.0",                "conv_norm_out",             None),
        ("conv_out",                "out.2",                "conv_out",                  None),
    ), _numbers)  # fmt: skip


# ours                     diffusers               AnimateDiff
_MOTION_ATTENTION = replace(ATTENTION, columns=_COLUMNS[1:])
_MOTION_FEED_FORWARD = replace(FEED_FORWARD, columns=_COLUMNS[1:])
_MOTION_BLOCK = Table(_COLUMNS[1:], (
    ("norm1",              "norm1",                "norms.0"),
    ("attn1",              "attn1",                "attention_blocks.0", _MOTION_ATTENTION),
    ("norm2",              "norm2",                "norms.1"),
    ("attn2",              "attn2",                "attention_blocks.1", _MOTION_ATTENTION),
    ("norm3",              "norm3",                "ff_norm"),
    ("ff",                 "ff",                   "ff", _MOTION_FEED_FORWARD),
))  # fmt: skip
_MOTION_MODULE = Table(_COLUMNS[1:], (
    ("norm",               "norm",                 "temporal_transformer.norm"),
    ("proj_in",            "proj_in",              "temporal_transformer.proj_in"),
    ("block",              "transformer_blocks.0", "temporal_transformer.transformer_blocks.0", _MOTION_BLOCK),
    ("proj_out",           "proj_out",             "temporal_transformer.proj_out"),
))  # fmt: skip

# ours                     ModelScope (sgm)       diffusers
_CONVOLUTIONS = Table(_COLUMNS[:2], (
    ("norms.0",            "conv1.0",              "conv1.0"),
    ("convs.0",            "conv1.2 : temporal",   "conv1.2 : temporal"),
    ("norms.1",            "conv2.0",              "conv2.0"),
    ("convs.1",            "conv2.3 : temporal",   "conv2.3 : temporal"),
    ("norms.2",            "conv3.0",              "conv3.0"),
    ("convs.2",            "conv3.3 : temporal",   "conv3.3 : temporal"),
    ("norms.3",            "conv4.0",              "conv4.0"),
    ("convs.3",            "conv4.3 : temporal",   "conv4.3 : temporal"),
))  # fmt: skip
_FRAME_TRANSFORMER = Table(_COLUMNS[:2], (
    ("norm",               "norm",                 "norm"),
    ("proj_in",            "proj_in : linear_1",   "proj_in"),
    ("block",              "transformer_blocks.0", "transformer_blocks.0", BLOCK),
    ("proj_out",           "proj_out : linear_1",  "proj_out"),
))  # fmt: skip

# ours                     srpkdyy/VideoLDM, on diffusers
CONVOLUTIONS_3D = Table(("diffusers",), (
    ("norms.0",            "block1.0"),
    ("convs.0",            "block1.2 : temporal"),
    ("norms.1",            "block2.0"),
    ("convs.1",            "block2.2 : temporal"),
))  # fmt: skip
TEXT_ATTENTION_LAYER = Table(("diffusers",), (
    ("to_q",               "q_proj"),
    ("to_k",               "k_proj"),
    ("to_v",               "v_proj"),
    ("to_out",             "o_proj"),
))  # fmt: skip

IMAGE = _unet()
UPSAMPLER = _unet(entry=(("vector_embedding", "label_emb : transpose", "class_embedding : transpose", None),))
MOTION_MODULES = _unet(
    lambda resnet, attention: (
        ("attentions.{j}.temporal", None, "motion_modules.{j}", "motion_modules.{j}", _MOTION_MODULE),
    )
)
MODELSCOPE = _unet(
    lambda resnet, attention: (
        ("resnets.{j}.temporal", f"{resnet}.temopral_conv", "temp_convs.{j}", None, _CONVOLUTIONS),  # sic
        ("attentions.{j}.temporal", attention, "temp_attentions.{j}", None, _FRAME_TRANSFORMER),
    ),
    (("entry", "input_blocks.0.1", "transformer_in", None, _FRAME_TRANSFORMER),),
)
TEXT_ATTENTION = _unet(
    lambda resnet, attention: (
        ("resnets.{j}.temporal", None, "conv3ds.{j}", None, CONVOLUTIONS_3D),
        ("resnets.{j}.blend.alpha", None, "conv3ds.{j}.alpha", None),
        ("attentions.{j}.temporal", None, "tempo_attns.{j}", None, TEXT_ATTENTION_LAYER),
        ("attentions.{j}.blend.alpha", None, "tempo_attns.{j}.alpha", None),
    )
)
