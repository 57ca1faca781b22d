"""Tiny models that are given text, videos with captions, and the flags of short trainings on them."""

from dataclasses import replace
from pathlib import Path

from small_text_model import SMALL_IMAGE, SMALL_VIDEO, write_text_checkpoint
from training_runs import options
from training_videos import write_csv, write_training_videos

from svd.config import AutoencoderConfig, TemporalConfig, UNetConfig, dump_config
from svd.config.temporal import VideoLDMLayers

ONE_LEVEL = {
    "unet": UNetConfig(
        in_channels=4,
        model_channels=32,
        channel_mult=[1],
        num_res_blocks=1,
        attention_resolutions=[],
        num_heads=2,
        context_dim=16,
        vector_dim=None,
    ),
    "autoencoder": AutoencoderConfig(channels=32, channel_mult=[1], num_res_blocks=1, decoder="image"),
}
TINY_IMAGE = replace(SMALL_IMAGE, **ONE_LEVEL)
TINY_VIDEO = replace(SMALL_VIDEO, **ONE_LEVEL, temporal=TemporalConfig(video_ldm=VideoLDMLayers(fps=True)))
"""A single level, with a transformer in its middle; temporal layers are told the frame rate."""
MODELS = {"image": TINY_IMAGE, "video": TINY_VIDEO}
CAPTIONS = ("a three", "the fast dog", "", "a slow seven and a cat")


def write_text_inputs(folder: Path) -> Path:
    """Write image.safetensors and video.safetensors, their configurations, and videos with captions; the folder."""
    for name, config in MODELS.items():
        write_text_checkpoint(folder / f"{name}.safetensors", config)
        (folder / f"{name}.yaml").write_text(dump_config(config))
    write_training_videos(folder, len(CAPTIONS))
    rows = [(f"video_{index}.mp4", 20, 0, caption) for index, caption in enumerate(CAPTIONS)]
    write_csv(folder / "captions.csv", rows, "path,length,motion_bucket_id,caption")
    return folder


def text_options(inputs: Path, run: Path, model: str) -> list[str]:
    """As `options`, for one of MODELS and its task."""
    return [
        *options(inputs, run),
        f"--svd_config={inputs / f'{model}.yaml'}",
        f"--train.pretrained={inputs / f'{model}.safetensors'}",
        f"--train.task=text_to_{model}",
        f"--train.dataset.init_args.metadata={inputs / 'captions.csv'}",
    ]
