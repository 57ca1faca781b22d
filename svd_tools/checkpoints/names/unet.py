"""The UNet: our names beside those of Stability's single file (sgm) and of diffusers."""

from __future__ import annotations

from svd.config import ModelConfig
from svd_tools.checkpoints.tables import Table

_COLUMNS = ("sgm", "diffusers")


def numbers(config: ModelConfig, i: int, j: int) -> dict[str, int]:
    """Stability numbers all blocks consecutively."""
    unet = config.unet
    per_level = unet.num_res_blocks + 1
    factor = 2 ** max(0, len(unet.channel_mult) - 1 - i)  # of the i-th up level
    return {
        "down": 1 + i * per_level + j,
        "down_end": (i + 1) * per_level,
        "up": i * per_level + j,
        "up_end": i * per_level + unet.num_res_blocks,
        "last": 2 if factor in unet.attention_resolutions else 1,  # after the transformer, if there is one
    }


# ours                     Stability (sgm)         diffusers
ATTENTION = Table(_COLUMNS, (
    ("to_q",               "to_q",                 "to_q"),
    ("to_k",               "to_k",                 "to_k"),
    ("to_v",               "to_v",                 "to_v"),
    ("to_out",             "to_out.0",             "to_out.0"),
))  # fmt: skip
FEED_FORWARD = Table(_COLUMNS, (
    ("proj_in",            "net.0.proj",           "net.0.proj"),
    ("proj_out",           "net.2",                "net.2"),
))  # fmt: skip
BLOCK = Table(_COLUMNS, (
    ("norm_in",            "norm_in",              "norm_in"),
    ("ff_in",              "ff_in",                "ff_in", FEED_FORWARD),
    ("norm1",              "norm1",                "norm1"),
    ("attn1",              "attn1",                "attn1", ATTENTION),
    ("norm2",              "norm2",                "norm2"),
    ("attn2",              "attn2",                "attn2", ATTENTION),
    ("norm3",              "norm3",                "norm3"),
    ("ff",                 "ff",                   "ff", FEED_FORWARD),
))  # fmt: skip
_TRANSFORMER = Table(_COLUMNS, (
    ("norm",                     "norm",                  "norm"),
    ("proj_in",                  "proj_in",               "proj_in"),
    ("spatial",                  "transformer_blocks.0",  "transformer_blocks.0", BLOCK),
    ("temporal",                 "time_stack.0",          "temporal_transformer_blocks.0", BLOCK),
    ("frame_embedding.linear_1", "time_pos_embed.0",      "time_pos_embed.linear_1"),
    ("frame_embedding.linear_2", "time_pos_embed.2",      "time_pos_embed.linear_2"),
    ("blend.mix_factor",         "time_mixer.mix_factor", "time_mixer.mix_factor"),
    ("proj_out",                 "proj_out",              "proj_out"),
))  # fmt: skip
_RESNET = Table(_COLUMNS, (
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
))  # fmt: skip
UNET = Table(_COLUMNS, (
    ("conv_in",                   "input_blocks.0.0",     "conv_in"),
    ("time_embedding.linear_1",   "time_embed.0",         "time_embedding.linear_1"),
    ("time_embedding.linear_2",   "time_embed.2",         "time_embedding.linear_2"),
    ("vector_embedding.linear_1", "label_emb.0.0",        "add_embedding.linear_1"),
    ("vector_embedding.linear_2", "label_emb.0.2",        "add_embedding.linear_2"),
    ("down_blocks.{i}",           "input_blocks",         "down_blocks.{i}", (
        ("resnets.{j}",           "{down}.0",             "resnets.{j}", _RESNET),
        ("attentions.{j}",        "{down}.1",             "attentions.{j}", _TRANSFORMER),
        ("downsample.conv",       "{down_end}.0.op",      "downsamplers.0.conv"))),
    ("mid_block",                 "middle_block",         "mid_block", (
        ("resnets.0",             "0",                    "resnets.0", _RESNET),
        ("attentions.0",          "1",                    "attentions.0", _TRANSFORMER),
        ("resnets.1",             "2",                    "resnets.1", _RESNET))),
    ("up_blocks.{i}",             "output_blocks",        "up_blocks.{i}", (
        ("resnets.{j}",           "{up}.0",               "resnets.{j}", _RESNET),
        ("attentions.{j}",        "{up}.1",               "attentions.{j}", _TRANSFORMER),
        ("upsample.conv",         "{up_end}.{last}.conv", "upsamplers.0.conv"))),
    ("norm_out",                  "out.0",                "conv_norm_out"),
    ("conv_out",                  "out.2",                "conv_out"),
), numbers)  # fmt: skip
