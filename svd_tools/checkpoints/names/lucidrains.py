"""The network of lucidrains/video-diffusion-pytorch: our names beside its own, whose `gamma` is read as `weight`."""

from __future__ import annotations

from svd.config import VideoDiffusionConfig
from svd_tools.checkpoints.tables import Table

_COLUMNS = ("lucidrains",)


def _names(config: VideoDiffusionConfig, i: int, j: int) -> dict[str, str]:
    """How residual blocks store the gain of their normalisation, which changed with version 0.7."""
    return {"form": "gain_of_channels" if config.lucidrains.norm == "rms" else "same"}


# ours                        theirs
_BLOCK = Table(_COLUMNS, (
    ("proj",                  "proj : over_frames"),
    ("norm.weight",           "norm.weight : {form}"),
    ("norm.bias",             "norm.bias"),
))  # fmt: skip
_RESNET = Table(_COLUMNS, (
    ("emb_proj",              "mlp.1"),
    ("block1",                "block1", _BLOCK),
    ("block2",                "block2", _BLOCK),
    ("shortcut",              "res_conv : over_frames"),
))  # fmt: skip
_LINEAR_ATTENTION = Table(_COLUMNS, (
    ("norm.weight",           "fn.norm.weight : gain_of_clips"),
    ("qkv",                   "fn.fn.to_qkv : linear_1x1"),
    ("to_out",                "fn.fn.to_out : linear_1x1"),
))  # fmt: skip
_ATTENTION = Table(_COLUMNS, (
    ("norm.weight",           "fn.norm.weight : gain_of_clips"),
    ("qkv",                   "fn.fn.fn.to_qkv"),
    ("to_out",                "fn.fn.fn.to_out"),
))  # fmt: skip
_LEVEL = Table(_COLUMNS, (
    ("resnets.{j}",           "{j}", _RESNET),
    ("spatial",               "2",   _LINEAR_ATTENTION),
    ("temporal",              "3",   _ATTENTION),
    ("resample",              "4 : over_frames"),
))  # fmt: skip
LUCIDRAINS_UNET = Table(_COLUMNS, (
    ("bias",                  "time_rel_pos_bias.relative_attention_bias.weight"),
    ("null_vector",           "null_cond_emb"),
    ("time_linear_1",         "time_mlp.1"),
    ("time_linear_2",         "time_mlp.3"),
    ("conv_in",               "init_conv : over_frames"),
    ("temporal_in",           "init_temporal_attn", _ATTENTION),
    ("down_blocks.{i}",       "downs.{i}",          _LEVEL),
    ("mid_resnets.0",         "mid_block1",         _RESNET),
    ("mid_spatial",           "mid_spatial_attn",   _ATTENTION),
    ("mid_temporal",          "mid_temporal_attn",  _ATTENTION),
    ("mid_resnets.1",         "mid_block2",         _RESNET),
    ("up_blocks.{i}",         "ups.{i}",            _LEVEL),
    ("resnet_out",            "final_conv.0",       _RESNET),
    ("conv_out",              "final_conv.1 : over_frames"),
), _names)  # fmt: skip
