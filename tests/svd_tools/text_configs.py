"""Tiny models that are given text, as YAML: their kinds, and the checkpoints of them that tests make."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from small_text import VOCABULARY, small_tokenizer

from svd import build
from svd.config import load_config
from svd_tools.checkpoints.layout import Layout, expand
from svd_tools.checkpoints.layouts import layouts_of
from svd_tools.checkpoints.tables import TRANSFORMS
from svd_tools.checkpoints.vocabulary import write_vocabulary

FIRST = f"""
kind: image_ldm
unet: {{model_channels: 32, channel_mult: [1, 2], num_res_blocks: 1, attention_resolutions: [1], num_heads: 2,
       context_dim: 16}}
autoencoder: {{channels: 32, channel_mult: [1, 2], num_res_blocks: 1}}
text_encoder: {{vocabulary: {len(VOCABULARY)}, tokens: 12, width: 16, layers: 2, heads: 2}}
sampling: {{height: 32, width: 32}}
"""
SECOND = (
    FIRST.replace("num_heads: 2", "num_heads: null, num_head_channels: 16, convolution_projection: false")
    .replace("context_dim: 16", "context_dim: 32")
    .replace("width: 16, layers: 2, heads: 2", "width: 32, layers: 2, heads: 2, activation: gelu, padding: zero")
    + "preconditioning: vp_v\n"
)
MOTION = (
    FIRST.replace("image_ldm", "video_ldm") + "temporal: {motion_modules: {heads: 4, max_frames: 6, middle: true}}\n"
)
MODELSCOPE = SECOND.replace("image_ldm", "video_ldm") + "temporal: {modelscope: {num_head_channels: 16}}\n"
SRPKDYY = FIRST.replace("image_ldm", "video_ldm") + "temporal: {text_attention: {heads: 4}}\n"
TEXT_CONFIGS = {"first": FIRST, "second": SECOND, "motion": MOTION, "modelscope": MODELSCOPE, "srpkdyy": SRPKDYY}
TOKENIZER = small_tokenizer().to_metadata()


def layout_of(config: Path, name: str) -> Layout:
    """The layout of this name that suits a config, whether it is written or only read."""
    model = load_config(config)
    return next(layout for layout in layouts_of(model) if layout.name == name and layout.suits(model))


def random_checkpoint(config: Path, layout: str, dtype=np.float32) -> dict[str, np.ndarray]:
    """Random tensors of a config's model by the names of a layout."""
    rng, model = np.random.default_rng(0), load_config(config)
    shapes = build.parameter_shapes(model)
    return {
        entry.theirs: rng.standard_normal(TRANSFORMS[entry.transform].shape(shapes[entry.ours])).astype(dtype)
        for entry in expand(layout_of(config, layout), model, shapes)
    }


def write_vocabulary_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(TOKENIZER, folder)
    return folder


def write_folder(folder: Path, weights: dict[str, np.ndarray]) -> Path:
    """A diffusers folder of tensors whose names begin with their component's; without files of settings."""
    for part in dict.fromkeys(name.split(".")[0] for name in weights):
        (folder / part).mkdir(parents=True)
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        tensors = {name.removeprefix(f"{part}."): v for name, v in weights.items() if name.startswith(f"{part}.")}
        save_file(tensors, folder / part / f"{stem}.safetensors", {"format": "pt"})
    write_vocabulary_folder(folder / "tokenizer")
    return folder


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a diffusers folder, prefixed with their component's name."""
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{path.parent.name}.{name}": v for path in files for name, v in load_file(path).items()}
