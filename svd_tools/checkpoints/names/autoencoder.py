"""The autoencoder, with either decoder: our names beside those of Stability's single file (sgm) and of diffusers.

The image decoder has the encoder's residual blocks; in the temporal one each has a spatial and a temporal part.
"""

from __future__ import annotations

from svd.config import ModelConfig
from svd_tools.checkpoints.tables import Table

_COLUMNS = ("sgm", "diffusers")


def _numbers(config: ModelConfig, i: int, j: int) -> dict[str, int]:
    """Stability numbers the decoder's levels backwards."""
    return {"level": len(config.autoencoder.channel_mult) - 1 - i}


# ours                     Stability (sgm)         diffusers
_RESNET = Table(_COLUMNS, (
    ("norm1",              "norm1",                              "norm1"),
    ("conv1",              "conv1",                              "conv1"),
    ("norm2",              "norm2",                              "norm2"),
    ("conv2",              "conv2",                              "conv2"),
    ("shortcut",           "nin_shortcut",                       "conv_shortcut"),
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
))  # fmt: skip
_ATTENTION = Table(_COLUMNS, (
    ("norm",               "norm",                  "group_norm"),
    ("to_q",               "q : linear_1x1",        "to_q"),
    ("to_k",               "k : linear_1x1",        "to_k"),
    ("to_v",               "v : linear_1x1",        "to_v"),
    ("to_out",             "proj_out : linear_1x1", "to_out.0"),
))  # fmt: skip
_MIDDLE = Table(_COLUMNS, (
    ("resnets.0",          "block_1",              "resnets.0", _RESNET),
    ("attention",          "attn_1",               "attentions.0", _ATTENTION),
    ("resnets.1",          "block_2",              "resnets.1", _RESNET),
))  # fmt: skip
ENCODER = Table(_COLUMNS, (
    ("conv_in",             "encoder.conv_in",      "encoder.conv_in"),
    ("down_blocks.{i}",     "encoder.down.{i}",     "encoder.down_blocks.{i}", (
        ("resnets.{j}",     "block.{j}",            "resnets.{j}", _RESNET),
        ("downsample.conv", "downsample.conv",      "downsamplers.0.conv"))),
    ("mid",                 "encoder.mid",          "encoder.mid_block", _MIDDLE),
    ("norm_out",            "encoder.norm_out",     "encoder.conv_norm_out"),
    ("conv_out",            "encoder.conv_out",     "encoder.conv_out"),
    ("quant_conv",          "quant_conv",           "quant_conv"),
), _numbers)  # fmt: skip
DECODER = Table(_COLUMNS, (
    ("post_quant_conv",    "post_quant_conv",                           "post_quant_conv"),
    ("conv_in",            "decoder.conv_in",                           "decoder.conv_in"),
    ("mid",                "decoder.mid",                               "decoder.mid_block", _MIDDLE),
    ("up_blocks.{i}",      "decoder.up.{level}",                        "decoder.up_blocks.{i}", (
        ("resnets.{j}",    "block.{j}",                                 "resnets.{j}", _RESNET),
        ("upsample.conv",  "upsample.conv",                             "upsamplers.0.conv"))),
    ("norm_out",           "decoder.norm_out",                          "decoder.conv_norm_out"),
    ("conv_out",           "decoder.conv_out",                          "decoder.conv_out"),
    ("time_conv_out",      "decoder.conv_out.time_mix_conv : temporal", "decoder.time_conv_out : temporal"),
), _numbers)  # fmt: skip
