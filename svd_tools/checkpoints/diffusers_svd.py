"""The folder of diffusers' `StableVideoDiffusionPipeline`."""

from __future__ import annotations

from svd.checkpoints.tensor_header import CheckpointError
from svd.conditioning.clip_preprocess import CLIP_MEAN, CLIP_STD
from svd.config import AutoencoderConfig, ModelConfig
from svd_tools.checkpoints.diffusers_folder import Component, Folder, check_channels


def check_expressible(config: ModelConfig, whole: bool) -> None:
    """Raise CheckpointError for a model (only its UNet if not `whole`) that the diffusers pipeline cannot run."""
    if whole:
        _check_autoencoder(config.autoencoder)
    check_channels(config.unet.channel_mult)
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
    check_channels(config.channel_mult)


def _unet(config: ModelConfig) -> dict:
    unet = config.unet
    channels = [mult * unet.model_channels for mult in unet.channel_mult]
    kinds = ["CrossAttn" if 2**i in unet.attention_resolutions else "" for i in range(len(channels))]
    return {
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


def _scheduler(config: ModelConfig) -> dict:
    return {
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


_CLIP_INVISIBLE = ("num_attention_heads", "patch_size", "image_size", "hidden_act")
FOLDER = Folder(
    "StableVideoDiffusionPipeline",
    "0.24.0",
    {
        "unet": Component("diffusers", "UNetSpatioTemporalConditionModel", _unet, ("num_attention_heads",)),
        "vae": Component("diffusers", "AutoencoderKLTemporalDecoder", _vae, ("scaling_factor",)),
        "image_encoder": Component("transformers", "CLIPVisionModelWithProjection", _image_encoder, _CLIP_INVISIBLE),
        "scheduler": Component(
            "diffusers", "EulerDiscreteScheduler", _scheduler, file="scheduler_config.json", network=False
        ),
        "feature_extractor": Component(
            "transformers", "CLIPImageProcessor", _feature_extractor, file="preprocessor_config.json", network=False
        ),
    },
)
