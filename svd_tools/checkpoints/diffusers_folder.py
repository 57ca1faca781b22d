"""The folder of a diffusers `StableVideoDiffusionPipeline`: checking its settings, and writing it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from svd.checkpoints.tensor_files import LazyTensor, write_safetensors
from svd.checkpoints.tensor_header import CheckpointError
from svd.conditioning.clip_preprocess import CLIP_MEAN, CLIP_STD
from svd.config import AutoencoderConfig, ModelConfig
from svd.files import fsync
from svd.records import RecordError, read_json

LARGEST_CONFIG = 1 << 20  # bytes of a config.json
_VERSION = "0.24.0"  # the first release of diffusers with this pipeline
_FILES = {"diffusers": "diffusion_pytorch_model.safetensors", "transformers": "model.safetensors"}


def check_expressible(config: ModelConfig, whole: bool) -> None:
    """Raise CheckpointError for a model (only its UNet if not `whole`) that the diffusers pipeline cannot run."""
    if whole:
        _check_autoencoder(config.autoencoder)
    _check_channels(config.unet.channel_mult)
    if config.preconditioning != "v_scaling":
        raise CheckpointError(
            f"diffusers' pipeline knows no preconditioning but v_scaling, not {config.preconditioning}"
        )


def _check_autoencoder(config: AutoencoderConfig) -> None:
    if config.decoder != "temporal":
        raise CheckpointError(
            "the diffusers layout of Stable Video Diffusion has the temporal decoder "
            "(AutoencoderKLTemporalDecoder) and no place for a frame-wise one; "
            "convert the checkpoint with the temporal decoder, or use --to sgm"
        )
    if config.num_res_blocks != 2:
        raise CheckpointError(
            "diffusers gives the middle of its temporal decoder as many residual blocks as "
            "autoencoder.num_res_blocks, Stability always 2; "
            f"with {config.num_res_blocks} the model has no equal there"
        )
    _check_channels(config.channel_mult)


def _check_channels(channel_mult: list[int]) -> None:
    if channel_mult[0] != 1:
        raise CheckpointError("the networks of diffusers begin with channel_mult 1, the config with another one")


def check_settings(folder: Path, config: ModelConfig) -> None:
    """Raise CheckpointError if a folder's config.json contradicts the config in settings that shapes do not show."""
    for name, component in COMPONENTS.items():
        path = folder / name / "config.json"
        if not path.exists():
            continue
        ours = component.settings(config)
        try:
            theirs = read_json(path, LARGEST_CONFIG)
        except RecordError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        if not isinstance(theirs, dict):
            raise CheckpointError(f"{path} is damaged: it is not a mapping of names to values")
        pairs = [(key, theirs[key], ours[key]) for key in component.invisible if key in theirs]
        for key, stated, wanted in pairs:
            if isinstance(wanted, list) and isinstance(stated, int):
                stated = [stated] * len(wanted)
            if stated != wanted:
                raise CheckpointError(f"{path} says {key} {str(stated)[:80]}, but the config asks for {wanted}")


def write_folder(
    folder: Path, tensors: Mapping[str, LazyTensor], config: ModelConfig, progress: Callable[[int], object]
) -> None:
    """Write config files and tensors, whose names start with their component's, into a new folder."""
    for name, content in config_files(config).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
    for name, component in COMPONENTS.items():
        part = {n.removeprefix(f"{name}."): tensor for n, tensor in tensors.items() if n.startswith(f"{name}.")}
        write_safetensors(folder / name / _FILES[component.library], part, {"format": "pt"}, progress)
    for path in (folder, *(folder / name for name in COMPONENTS)):
        fsync(path)  # directory entries are flushed before the folder is renamed


def config_files(config: ModelConfig) -> dict[str, dict]:
    """All files of the folder except tensors, by path."""
    index = {
        "_class_name": "StableVideoDiffusionPipeline",
        "_diffusers_version": _VERSION,
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        **{name: [component.library, component.kind] for name, component in COMPONENTS.items()},
    }
    return {
        "model_index.json": dict(sorted(index.items())),
        **{f"{name}/config.json": component.settings(config) for name, component in COMPONENTS.items()},
        "scheduler/scheduler_config.json": _scheduler(config),
        "feature_extractor/preprocessor_config.json": _feature_extractor(config),
    }


def _unet(config: ModelConfig) -> dict:
    unet = config.unet
    channels = [mult * unet.model_channels for mult in unet.channel_mult]
    kinds = ["CrossAttn" if 2**i in unet.attention_resolutions else "" for i in range(len(channels))]
    return {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "_diffusers_version": _VERSION,
        "addition_time_embed_dim": unet.vector_dim // 3,
        "block_out_channels": channels,
        "cross_attention_dim": unet.context_dim,
        "down_block_types": [f"{kind}DownBlockSpatioTemporal" for kind in kinds],
        "in_channels": unet.in_channels,
        "layers_per_block": unet.num_res_blocks,
        "num_attention_heads": [width // unet.num_head_channels for width in channels],
        "num_frames": config.sampling.num_frames,
        "out_channels": unet.out_channels,
        "projection_class_embeddings_input_dim": unet.vector_dim,
        "sample_size": 96,
        "transformer_layers_per_block": 1,
        "up_block_types": [f"{kind}UpBlockSpatioTemporal" for kind in reversed(kinds)],
    }


def _vae(config: ModelConfig) -> dict:
    vae = config.autoencoder
    return {
        "_class_name": "AutoencoderKLTemporalDecoder",
        "_diffusers_version": _VERSION,
        "block_out_channels": [mult * vae.channels for mult in vae.channel_mult],
        "down_block_types": ["DownEncoderBlock2D"] * len(vae.channel_mult),
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": vae.latent_channels,
        "layers_per_block": vae.num_res_blocks,
        "out_channels": 3,
        "sample_size": 768,
        "scaling_factor": vae.scale_factor,
    }


def _image_encoder(config: ModelConfig) -> dict:
    clip = config.image_encoder
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "attention_dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": clip.width,
        "image_size": clip.image_size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * clip.width,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model",
        "num_attention_heads": clip.heads,
        "num_channels": 3,
        "num_hidden_layers": clip.layers,
        "patch_size": clip.patch_size,
        "projection_dim": clip.output_dim,
    }


class Component(NamedTuple):
    """A subfolder with a network."""

    library: str
    kind: str
    """Its class in the library."""
    settings: Callable[[ModelConfig], dict]
    """Content of config.json."""
    invisible: tuple[str, ...]
    """Settings that shapes do not show."""


_CLIP_INVISIBLE = ("num_attention_heads", "patch_size", "image_size", "hidden_act")
COMPONENTS = {
    "unet": Component("diffusers", "UNetSpatioTemporalConditionModel", _unet, ("num_attention_heads",)),
    "vae": Component("diffusers", "AutoencoderKLTemporalDecoder", _vae, ("scaling_factor",)),
    "image_encoder": Component("transformers", "CLIPVisionModelWithProjection", _image_encoder, _CLIP_INVISIBLE),
}
"""Subfolders with tensors, whose names are prefixed with theirs."""


def _scheduler(config: ModelConfig) -> dict:
    return {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": _VERSION,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "sigma_max": config.sampling.sigma_max,
        "sigma_min": config.sampling.sigma_min,
        "steps_offset": 1,
        "timestep_spacing": "leading",  # with it the initial noise is sqrt(sigma_max^2 + 1)
        "timestep_type": "continuous",
        "trained_betas": None,
        "use_karras_sigmas": True,
    }


def _feature_extractor(config: ModelConfig) -> dict:
    size = config.image_encoder.image_size
    return {
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": CLIP_MEAN.ravel().tolist(),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": CLIP_STD.ravel().tolist(),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": size},
    }
