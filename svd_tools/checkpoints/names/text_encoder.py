"""CLIP's text tower: our names beside those of OpenCLIP, in the single file of Stable Diffusion 2, and of transformers,
in that of Stable Diffusion 1 and in diffusers' folders.
"""

from svd_tools.checkpoints.names.clip import LAYER
from svd_tools.checkpoints.tables import Table

# ours                     OpenCLIP                    transformers
TEXT_ENCODER = Table(("sgm", "diffusers"), (
    ("token_embedding",    "token_embedding.weight",   "text_model.embeddings.token_embedding.weight"),
    ("position_embedding", "positional_embedding",     "text_model.embeddings.position_embedding.weight"),
    ("layers.{i}",         "transformer.resblocks.{i}", "text_model.encoder.layers.{i}", LAYER),
    ("norm_out",           "ln_final",                 "text_model.final_layer_norm"),
))  # fmt: skip
