"""The UNet in pixel space: our names beside xdiffusion's.

Its Video Diffusion Models have three-dimensional layers, wrapped attention, and temporal layers in the list of blocks;
its image model has none of these, and VideoLDM adds lists of its own to the image model.
"""

from __future__ import annotations

from svd.config import VideoDiffusionConfig
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
        "last": 3 if joint else 2,
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
_CONVOLUTIONS = Table(_COLUMNS, (
    ("norms.0",            "block1.0"),
    ("convs.0",            "block1.2 : temporal"),
    ("norms.1",            "block2.0"),
    ("convs.1",            "block2.2 : temporal"),
))  # fmt: skip
_SPACE_ATTENTION = Table(_COLUMNS, (
    ("norm",               "_norm"),
    ("qkv",                "_qkv : linear_1"),
    ("text_kv",            "_encoder_kv : linear_1"),
    ("proj_out",           "_proj_out : linear_1"),
))  # fmt: skip
_TIME_ATTENTION = Table(_COLUMNS, (
    ("norm",               "_norm"),
    ("qkv",                "_qkv : linear_1"),
    ("keys",               "_attention._k_embeddings_table"),
    ("values",             "_attention._v_embeddings_table"),
    ("proj_out",           "_proj_out : linear_1"),
    ("to_q",               "q_proj"),
    ("to_k",               "k_proj"),
    ("to_v",               "v_proj"),
    ("to_out",             "o_proj"),
))  # fmt: skip


def _half(ours: str, theirs: str) -> tuple[tuple, ...]:
    return (
        (f"{ours}.{{i}}.resnets.{{j}}.spatial", f"{theirs}.{{n}}.0", _RESNET),
        (f"{ours}.{{i}}.resnets.{{j}}.temporal", f"{{front}}{theirs}.{{n}}.0", _CONVOLUTIONS),
        (f"{ours}.{{i}}.resnets.{{j}}.blend.alpha", f"{{front}}{theirs}.{{n}}.0.alpha"),
        (f"{ours}.{{i}}.attentions.{{j}}.spatial", f"{theirs}.{{n}}.{{space}}", _SPACE_ATTENTION),
        (f"{ours}.{{i}}.attentions.{{j}}.temporal", f"{{front}}{theirs}.{{n}}.{{time}}", _TIME_ATTENTION),
        (f"{ours}.{{i}}.attentions.{{j}}.blend.alpha", f"{{front}}{theirs}.{{n}}.1.alpha"),
    )


PIXEL_UNET = Table(_COLUMNS, (
    ("conv_in",                                "_initial_convolution : {conv}"),
    ("time_embedding.linear_1",                "_projections.timestep._projection.1"),
    ("time_embedding.linear_2",                "_projections.timestep._projection.3"),
    *_half("down_blocks", "downs"),
    ("mid_block.resnets.0.spatial",            "middle.0", _RESNET),
    ("mid_block.resnets.0.temporal",           "temporal_middle.0", _CONVOLUTIONS),
    ("mid_block.resnets.0.blend.alpha",   "temporal_middle.0.alpha"),
    ("mid_block.attentions.0.spatial",         "middle.{space}", _SPACE_ATTENTION),
    ("mid_block.attentions.0.temporal",        "{front}middle.{time}", _TIME_ATTENTION),
    ("mid_block.attentions.0.blend.alpha", "temporal_middle.1.alpha"),
    ("mid_block.resnets.1.spatial",            "middle.{last}", _RESNET),
    ("mid_block.resnets.1.temporal",           "temporal_middle.2", _CONVOLUTIONS),
    ("mid_block.resnets.1.blend.alpha",   "temporal_middle.2.alpha"),
    *_half("up_blocks", "ups"),
    ("norm_out",                               "final_projection.0"),
    ("conv_out",                               "final_projection.2 : {conv}"),
), _names)  # fmt: skip
