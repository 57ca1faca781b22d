"""The UNet in pixel space: our names beside xdiffusion's.

Its Video Diffusion Models have three-dimensional layers, wrapped attention, and temporal layers in the list of blocks;
its image model has none of these, and VideoLDM adds lists of its own, of srpkdyy's layers, to the image model.
"""

from __future__ import annotations

from dataclasses import replace

from svd.config import VideoDiffusionConfig
from svd_tools.checkpoints.names.text_unet import CONVOLUTIONS_3D, TEXT_ATTENTION_LAYER
from svd_tools.checkpoints.tables import Table

_COLUMNS = ("xdiffusion",)


def _names(config: VideoDiffusionConfig, i: int, j: int) -> dict[str, int | str]:
    """Blocks of a half are numbered consecutively, and resampling is one of them."""
    joint = config.temporal.factorised is not None
    return {
        "n": i * (config.unet.num_res_blocks + 1) + j,
        "conv": "over_frames" if joint else "same",
        "space": "1.fn" if joint else "1",
        "front": "" if joint else "temporal_",
        "time": "2.fn" if joint else "1",
        "middle": j * (3 if joint else 2),
    }


# ours                     xdiffusion
_RESNET = Table(_COLUMNS, (
    ("norm1",              "in_layers.0"),
    ("conv1",              "in_layers.2 : {conv}"),
    ("emb_proj",           "emb_layers.1"),
    ("emb_networks.{k}",   "emb_layers.{k}", (
        ("linear_1",       "fc1"),
        ("linear_2",       "fc2"))),
    ("norm2",              "out_layers.0"),
    ("conv2",              "out_layers.3 : {conv}"),
    ("shortcut",           "skip_connection : {conv}"),
))  # fmt: skip
_CONVOLUTIONS = replace(CONVOLUTIONS_3D, columns=_COLUMNS)
_ATTENTION = Table(_COLUMNS, (
    ("norm",               "_norm"),
    ("qkv",                "_qkv : linear_1"),
    ("text_kv",            "_encoder_kv : linear_1"),
    ("keys",               "_attention._k_embeddings_table"),
    ("values",             "_attention._v_embeddings_table"),
    ("proj_out",           "_proj_out : linear_1"),
    *TEXT_ATTENTION_LAYER.rows,
))  # fmt: skip


def _half(ours: str, theirs: str) -> tuple[tuple, ...]:
    return (
        (f"{ours}.{{i}}.resnets.{{j}}.spatial", f"{theirs}.{{n}}.0", _RESNET),
        (f"{ours}.{{i}}.resnets.{{j}}.temporal", f"{{front}}{theirs}.{{n}}.0", _CONVOLUTIONS),
        (f"{ours}.{{i}}.resnets.{{j}}.blend.alpha", f"{{front}}{theirs}.{{n}}.0.alpha"),
        (f"{ours}.{{i}}.attentions.{{j}}.spatial", f"{theirs}.{{n}}.{{space}}", _ATTENTION),
        (f"{ours}.{{i}}.attentions.{{j}}.temporal", f"{{front}}{theirs}.{{n}}.{{time}}", _ATTENTION),
        (f"{ours}.{{i}}.attentions.{{j}}.blend.alpha", f"{{front}}{theirs}.{{n}}.1.alpha"),
    )


PIXEL_UNET = Table(_COLUMNS, (
    ("conv_in",                                "_initial_convolution : {conv}"),
    ("time_embedding.linear_1",                "_projections.timestep._projection.1"),
    ("time_embedding.linear_2",                "_projections.timestep._projection.3"),
    *_half("down_blocks", "downs"),
    ("mid_block.resnets.{j}.spatial",          "middle.{middle}", _RESNET),
    ("mid_block.resnets.{j}.temporal",         "temporal_middle.{middle}", _CONVOLUTIONS),
    ("mid_block.resnets.{j}.blend.alpha",      "temporal_middle.{middle}.alpha"),
    ("mid_block.attentions.0.spatial",         "middle.{space}", _ATTENTION),
    ("mid_block.attentions.0.temporal",        "{front}middle.{time}", _ATTENTION),
    ("mid_block.attentions.0.blend.alpha",     "temporal_middle.1.alpha"),
    *_half("up_blocks", "ups"),
    ("norm_out",                               "final_projection.0"),
    ("conv_out",                               "final_projection.2 : {conv}"),
), _names)  # fmt: skip
