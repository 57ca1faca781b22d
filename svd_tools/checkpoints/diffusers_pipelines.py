"""The folders of diffusers' pipelines: Stable Video Diffusion, and those that are given text."""

from __future__ import annotations

from svd.checkpoints.tensor_header import CheckpointError
from svd.conditioning.clip_preprocess import CLIP_MEAN, CLIP_STD
from svd.config import (
    ImageEncoderConfig,
    ImageLDMConfig,
    LatentModel,
    ModelConfig,
    TextEncoderConfig,
    UpsamplerConfig,
    VideoLDMConfig,
)
from svd_tools.checkpoints.diffusers_folder import Component, Folder


def check_image_to_video(config: ModelConfig, whole: bool) -> None:
    """Raise CheckpointError for a model (only its UNet if not `whole`) that the diffusers pipeline cannot run."""
    if whole and config.autoencoder.decoder != "temporal":
        raise CheckpointError(
            "the diffusers layout of Stable Video Diffusion has the temporal decoder "
            "(AutoencoderKLTemporalDecoder) and no place for a frame-wise one; "
            "convert the checkpoint with the temporal decoder, or use --to sgm"
        )
    if whole and config.autoencoder.num_res_blocks != 2:
        raise CheckpointError(
            "diffusers gives the middle of its temporal decoder as many residual blocks as "
            "autoencoder.num_res_blocks, Stability always 2; "
            f"with {config.autoencoder.num_res_blocks} the model has no equal there"
        )
    _check_channels(config, whole)
    if config.preconditioning != "v_scaling":
        raise CheckpointError(
            f"diffusers' pipeline knows no preconditioning but v_scaling, not {config.preconditioning}"
        )


def check_stable_diffusion(config: ImageLDMConfig, whole: bool) -> None:
    """Raise CheckpointError for a model (only its UNet if not `whole`) that diffusers has no equal of."""
    check_decoder(config, whole)
    _check_channels(config, whole)


def check_decoder(config: ImageLDMConfig, whole: bool) -> None:
    """Raise CheckpointError for a decoder that the layouts of Stable Diffusion have no place for."""
    if whole and config.autoencoder.decoder != "image":
        raise CheckpointError("layouts of Stable Diffusion have the decoder of images: set autoencoder.decoder: image")


def check_upsampler(config: UpsamplerConfig, whole: bool) -> None:
    """Raise CheckpointError for an upsampler that no pipeline of diffusers runs."""
    if config.temporal is not None:
        raise CheckpointError(
            "the layouts of Stable Diffusion's x4 upscaler have no place for temporal layers: convert the image model "
            "alone, and begin them over it with svd initialize"
        )
    if config.autoencoder is None or config.text_encoder is None or config.unet.noise_level != "table":
        raise CheckpointError(
            "the layouts of Stable Diffusion's x4 upscaler are of models of latents that are given text, with a table "
            "of noise levels"
        )
    if config.low_resolution.factor != config.autoencoder.downsampling:
        raise CheckpointError("Stable Diffusion's x4 upscaler enlarges by the autoencoder's factor, the config by more")
    _check_channels(config, whole)


def check_modelscope(config: VideoLDMConfig, whole: bool) -> None:
    """The same, for a UNet whose temporal layers take their heads from those of the spatial ones."""
    check_stable_diffusion(config, whole)
    unet, temporal = config.unet, config.temporal.layers
    if unet.num_heads is not None or unet.num_head_channels != temporal.num_head_channels:
        raise CheckpointError("diffusers' UNet3DConditionModel has one num_head_channels for space and time")
    if temporal.entry_heads != 8:
        raise CheckpointError(f"diffusers' UNet3DConditionModel begins with 8 heads, not {temporal.entry_heads}")
    if unet.convolution_projection:
        raise CheckpointError("diffusers' UNet3DConditionModel has linear projections: no unet.convolution_projection")


def _check_channels(config: LatentModel, whole: bool) -> None:
    """Raise CheckpointError for a network whose first level does not have the channels of its first convolution."""
    for network in (config.unet, config.autoencoder) if whole else (config.unet,):
        if network.channel_mult[0] != 1:
            raise CheckpointError("the networks of diffusers begin with channel_mult 1, the config with another one")


def _ladder(config: LatentModel, suffix: str) -> dict:
    """The settings that all UNets have, of blocks with this suffix."""
    unet = config.unet
    kinds = ["CrossAttn" if 2**i in unet.attention_resolutions else "" for i in range(len(unet.channel_mult))]
    return {
        "block_out_channels": [mult * unet.model_channels for mult in unet.channel_mult],
        "cross_attention_dim": unet.context_dim,
        "down_block_types": [f"{kind}DownBlock{suffix}" for kind in kinds],
        "in_channels": unet.in_channels,
        "layers_per_block": unet.num_res_blocks,
        "out_channels": unet.out_channels,
        "up_block_types": [f"{kind}UpBlock{suffix}" for kind in reversed(kinds)],
    }


def _svd_unet(config: ModelConfig) -> dict:
    unet = config.unet
    return _ladder(config, "SpatioTemporal") | {
        "addition_time_embed_dim": unet.vector_dim // 3,
        "num_attention_heads": [mult * unet.model_channels // unet.num_head_channels for mult in unet.channel_mult],
        "num_frames": config.sampling.num_frames,
        "projection_class_embeddings_input_dim": unet.vector_dim,
        "sample_size": 96,
        "transformer_layers_per_block": 1,
    }


def _text_unet(config: ImageLDMConfig, suffix: str) -> dict:
    """The settings that the UNets have that are given text, of blocks with this suffix."""
    return _ladder(config, suffix) | {
        "act_fn": "silu",
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "sample_size": config.sampling.height // config.autoencoder.downsampling,
    }


def _heads(config: ImageLDMConfig) -> int | list[int]:
    unet = config.unet
    return unet.num_heads or [unet.heads(mult * unet.model_channels) for mult in unet.channel_mult]


def _image_unet(config: ImageLDMConfig) -> dict:
    return _text_unet(config, "2D") | {
        "attention_head_dim": _heads(config),  # of this class it is the number of heads
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "upcast_attention": config.unet.upcast_attention,
        "use_linear_projection": not config.unet.convolution_projection,
    }


def _upsampler_unet(config: UpsamplerConfig) -> dict:
    unet, schedule = config.unet, config.low_resolution.schedule
    factors = [2**i for i in range(len(unet.channel_mult))]
    # as published, levels without attention count as well
    only = [factor in unet.cross_attention_only or factor not in unet.attention_resolutions for factor in factors]
    return _ladder(config, "2D") | {
        "act_fn": "silu",
        "attention_head_dim": _heads(config),
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "num_class_embeds": schedule.timesteps,
        "only_cross_attention": only,
        "sample_size": 128,
        "upcast_attention": unet.upcast_attention,
        "use_linear_projection": not unet.convolution_projection,
    }


def _motion_unet(config: VideoLDMConfig) -> dict:
    motion = config.temporal.layers
    return _text_unet(config, "Motion") | {
        "motion_max_seq_length": motion.max_frames,
        "motion_num_attention_heads": motion.heads,
        "num_attention_heads": _heads(config),
        "use_linear_projection": not config.unet.convolution_projection,
        "use_motion_mid_block": motion.middle,
    }


def _modelscope_unet(config: VideoLDMConfig) -> dict:
    return _text_unet(config, "3D") | {"attention_head_dim": config.unet.num_head_channels}


def _vae(config: LatentModel) -> dict:
    vae = config.autoencoder
    return {
        "block_out_channels": [mult * vae.channels for mult in vae.channel_mult],
        "down_block_types": ["DownEncoderBlock2D"] * len(vae.channel_mult),
        "in_channels": 3,
        "latent_channels": vae.latent_channels,
        "layers_per_block": vae.num_res_blocks,
        "out_channels": 3,
        "scaling_factor": vae.scale_factor,
    }


def _temporal_vae(config: ModelConfig) -> dict:
    return _vae(config) | {"force_upcast": True, "sample_size": 768}


def _image_vae(config: ImageLDMConfig) -> dict:
    return _vae(config) | {
        "act_fn": "silu",
        "norm_num_groups": 32,
        "sample_size": config.sampling.height,
        "up_block_types": ["UpDecoderBlock2D"] * len(config.autoencoder.channel_mult),
    }


def _upsampler_vae(config: UpsamplerConfig) -> dict:
    levels = len(config.autoencoder.channel_mult)
    return _vae(config) | {
        "act_fn": "silu",
        "norm_num_groups": 32,
        "sample_size": 256,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _clip(clip: ImageEncoderConfig | TextEncoderConfig) -> dict:
    """The settings that both towers have."""
    return {
        "attention_dropout": 0.0,
        "hidden_size": clip.width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * clip.width,
        "layer_norm_eps": 1e-05,
        "num_attention_heads": clip.heads,
        "num_hidden_layers": clip.layers,
    }


def _image_encoder(config: ModelConfig) -> dict:
    clip = config.image_encoder
    return _clip(clip) | {
        "architectures": ["CLIPVisionModelWithProjection"],
        "hidden_act": "gelu",
        "image_size": clip.image_size,
        "model_type": "clip_vision_model",
        "num_channels": 3,
        "patch_size": clip.patch_size,
        "projection_dim": clip.output_dim,
    }


def _text_encoder(config: ImageLDMConfig) -> dict:
    clip = config.text_encoder
    return _clip(clip) | {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": 0,
        "eos_token_id": 2,  # as published: the pooled output, which depends on it, is not used
        "hidden_act": clip.activation,
        "max_position_embeddings": clip.tokens,
        "model_type": "clip_text_model",
        "pad_token_id": 1,
        "projection_dim": clip.width,
        "vocab_size": clip.vocabulary,
    }


def _svd_scheduler(config: ModelConfig) -> dict:
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


def _tokenizer(config: ImageLDMConfig) -> dict:
    start, end = "<|startoftext|>", "<|endoftext|>"
    padding = end if config.text_encoder.padding == "end" else "!"
    return {
        "add_prefix_space": False,
        "bos_token": start,
        "do_lower_case": True,
        "eos_token": end,
        "errors": "replace",
        "model_max_length": config.text_encoder.tokens,
        "pad_token": padding,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": end,
    }


_SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
}
"""diffusers' samplers and their settings, by the names of ours."""


def _scheduler(config: ImageLDMConfig) -> dict:
    kind, settings = _SCHEDULERS[config.sampling.sampler]
    return _discrete(config, kind) | settings


def _discrete(config: ImageLDMConfig | UpsamplerConfig, kind: str) -> dict:
    """The settings that schedulers of discrete timesteps have."""
    schedule, sampling = config.schedule, config.sampling
    return {
        "_class_name": kind,
        "beta_end": schedule.beta_end,
        "beta_schedule": schedule.betas,
        "beta_start": schedule.beta_start,
        "num_train_timesteps": schedule.timesteps,
        "prediction_type": {"vp_eps": "epsilon", "vp_v": "v_prediction"}[config.preconditioning],
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "steps_offset": sampling.offset,
        "timestep_spacing": sampling.spacing,
        "trained_betas": None,
    }


def _upsampler_scheduler(config: UpsamplerConfig) -> dict:
    return _discrete(config, "DDIMScheduler") | {"clip_sample": False, "set_alpha_to_one": False}


def _low_res_scheduler(config: UpsamplerConfig) -> dict:
    schedule = config.low_resolution.schedule
    return {
        "beta_end": schedule.beta_end,
        "beta_schedule": schedule.betas,
        "beta_start": schedule.beta_start,
        "num_train_timesteps": schedule.timesteps,
    }


_CLIP_INVISIBLE = ("num_attention_heads", "patch_size", "image_size", "hidden_act")
IMAGE_TO_VIDEO = Folder(
    "StableVideoDiffusionPipeline",
    "0.24.0",
    {
        "unet": Component("diffusers", "UNetSpatioTemporalConditionModel", _svd_unet, ("num_attention_heads",)),
        "vae": Component("diffusers", "AutoencoderKLTemporalDecoder", _temporal_vae, ("scaling_factor",)),
        "image_encoder": Component("transformers", "CLIPVisionModelWithProjection", _image_encoder, _CLIP_INVISIBLE),
        "scheduler": Component("diffusers", "EulerDiscreteScheduler", _svd_scheduler, file="scheduler_config.json"),
        "feature_extractor": Component(
            "transformers", "CLIPImageProcessor", _feature_extractor, file="preprocessor_config.json"
        ),
    },
)
_SCHEDULE = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
_SHARED = {
    "vae": Component("diffusers", "AutoencoderKL", _image_vae, ("scaling_factor",)),
    "text_encoder": Component("transformers", "CLIPTextModel", _text_encoder, ("num_attention_heads", "hidden_act")),
    "tokenizer": Component("transformers", "CLIPTokenizer", _tokenizer, file="tokenizer_config.json"),
    "scheduler": Component("diffusers", "", _scheduler, ("prediction_type",), _SCHEDULE, "scheduler_config.json"),
}
STABLE_DIFFUSION = Folder(
    "StableDiffusionPipeline",
    "0.8.0",
    {"unet": Component("diffusers", "UNet2DConditionModel", _image_unet, ("attention_head_dim",)), **_SHARED},
    absent=("safety_checker", "feature_extractor", "image_encoder"),
)
ANIMATEDIFF = Folder(
    "AnimateDiffPipeline",
    "0.23.0",
    {
        "unet": Component(
            "diffusers", "UNetMotionModel", _motion_unet, ("num_attention_heads", "motion_num_attention_heads")
        ),
        **_SHARED,
    },
    absent=("motion_adapter", "feature_extractor", "image_encoder"),
)
UPSAMPLER = Folder(
    "StableDiffusionUpscalePipeline",
    "0.14.0",
    {
        **_SHARED,
        "unet": Component(
            "diffusers", "UNet2DConditionModel", _upsampler_unet, ("attention_head_dim", "only_cross_attention")
        ),
        "vae": Component("diffusers", "AutoencoderKL", _upsampler_vae, ("scaling_factor",)),
        "scheduler": _SHARED["scheduler"]._replace(settings=_upsampler_scheduler),
        "low_res_scheduler": Component(
            "diffusers", "DDPMScheduler", _low_res_scheduler, (), _SCHEDULE, "scheduler_config.json"
        ),
    },
    absent=("safety_checker", "feature_extractor", "watermarker"),
    values=lambda config: {"max_noise_level": config.low_resolution.max_noise_level},
)
MODELSCOPE = Folder(
    "TextToVideoSDPipeline",
    "0.15.0",
    {"unet": Component("diffusers", "UNet3DConditionModel", _modelscope_unet, ("attention_head_dim",)), **_SHARED},
)
