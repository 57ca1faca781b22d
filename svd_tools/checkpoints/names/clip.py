"""CLIP's towers: our names beside those of OpenCLIP, in Stability's single files (sgm) but that of Stable Diffusion 1,
and of transformers, in that one and in diffusers' folders.
"""

from svd_tools.checkpoints.tables import Table

_COLUMNS = ("sgm", "diffusers")

# ours                     OpenCLIP                         transformers
_LAYER = Table(_COLUMNS, (
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
))  # fmt: skip
CLIP = Table(_COLUMNS, (
    ("class_embedding",    "class_embedding",           "vision_model.embeddings.class_embedding"),
    ("position_embedding", "positional_embedding",      "vision_model.embeddings.position_embedding.weight"),
    ("patch_embedding",    "conv1",                     "vision_model.embeddings.patch_embedding"),
    ("norm_pre",           "ln_pre",                    "vision_model.pre_layrnorm"),
    ("layers.{i}",         "transformer.resblocks.{i}", "vision_model.encoder.layers.{i}", _LAYER),
    ("norm_post",          "ln_post",                   "vision_model.post_layernorm"),
    ("projection.weight",  "proj : transpose",          "visual_projection.weight"),
))  # fmt: skip
TEXT_ENCODER = Table(_COLUMNS, (
    ("token_embedding",    "token_embedding.weight",    "text_model.embeddings.token_embedding.weight"),
    ("position_embedding", "positional_embedding",      "text_model.embeddings.position_embedding.weight"),
    ("layers.{i}",         "transformer.resblocks.{i}", "text_model.encoder.layers.{i}", _LAYER),
    ("norm_out",           "ln_final",                  "text_model.final_layer_norm"),
))  # fmt: skip
