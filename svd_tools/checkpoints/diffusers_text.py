"""The folders of diffusers' pipelines that are given text: Stable Diffusion, AnimateDiff, ModelScope."""

from __future__ import annotations

from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ImageLDMConfig, UNetConfig, VideoLDMConfig
from svd_tools.checkpoints.diffusers_folder import Component, Folder, check_channels


def check_expressible(config: ImageLDMConfig, whole: bool) -> None:
    """Raise CheckpointError for a model (only its UNet if not `whole`) that diffusers has no equal of."""
    check_channels(config.unet.channel_mult)
    if whole:
        check_decoder(config, whole)
        check_channels(config.autoencoder.channel_mult)


def check_decoder(config: ImageLDMConfig, whole: bool) -> None:
    """Raise CheckpointError for a decoder that the layouts of Stable Diffusion have no place for."""
    if whole and config.autoencoder.decoder != "image":
        raise CheckpointError("layouts of Stable Diffusion have the decoder of images: set autoencoder.decoder: image")


def check_modelscope(config: VideoLDMConfig, whole: bool) -> None:
    """The same, for a UNet whose temporal layers take their heads from those of the spatial ones."""
    check_expressible(config, whole)
    unet, temporal = config.unet, config.temporal.layers
    if unet.num_heads is not None or unet.num_head_channels != temporal.num_head_channels:
        raise CheckpointError("diffusers' UNet3DConditionModel has one num_head_channels for space and time")
    if temporal.entry_heads != 8:
        raise CheckpointError(f"diffusers' UNet3DConditionModel begins with 8 heads, not {temporal.entry_heads}")
    if unet.convolution_projection:
        raise CheckpointError("diffusers' UNet3DConditionModel has linear projections: no unet.convolution_projection")


def _heads(unet: UNetConfig) -> int | list[int]:
    return unet.num_heads or [unet.heads(mult * unet.model_channels) for mult in unet.channel_mult]


def _ladder(config: ImageLDMConfig, suffix: str) -> dict:
    """The settings that all UNets have, of blocks with this suffix."""
    unet = config.unet
    attends = [2**i in unet.attention_resolutions for i in range(len(unet.channel_mult))]
    kinds = ["CrossAttn" if attend else "" for attend in attends]
    return {
        "act_fn": "silu",
        "block_out_channels": [mult * unet.model_channels for mult in unet.channel_mult],
        "cross_attention_dim": unet.context_dim,
        "down_block_types": [f"{kind}DownBlock{suffix}" for kind in kinds],
        "downsample_padding": 1,
        "in_channels": unet.in_channels,
        "layers_per_block": unet.num_res_blocks,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": unet.out_channels,
        "sample_size": config.sampling.height // config.autoencoder.downsampling,
        "up_block_types": [f"{kind}UpBlock{suffix}" for kind in reversed(kinds)],
    }


def _image_unet(config: ImageLDMConfig) -> dict:
    return _ladder(config, "2D") | {
        "attention_head_dim": _heads(config.unet),  # of this class it is the number of heads
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "upcast_attention": config.unet.upcast_attention,
        "use_linear_projection": not config.unet.convolution_projection,
    }


def _motion_unet(config: VideoLDMConfig) -> dict:
    motion = config.temporal.layers
    return _ladder(config, "Motion") | {
        "motion_max_seq_length": motion.max_frames,
        "motion_num_attention_heads": motion.heads,
        "num_attention_heads": _heads(config.unet),
        "use_linear_projection": not config.unet.convolution_projection,
        "use_motion_mid_block": motion.middle,
    }


def _modelscope_unet(config: VideoLDMConfig) -> dict:
    return _ladder(config, "3D") | {"attention_head_dim": config.unet.num_head_channels}


def _vae(config: ImageLDMConfig) -> dict:
    vae = config.autoencoder
    return {
        "act_fn": "silu",
        "block_out_channels": [mult * vae.channels for mult in vae.channel_mult],
        "down_block_types": ["DownEncoderBlock2D"] * len(vae.channel_mult),
        "in_channels": 3,
        "latent_channels": vae.latent_channels,
        "layers_per_block": vae.num_res_blocks,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": config.sampling.height,
        "scaling_factor": vae.scale_factor,
        "up_block_types": ["UpDecoderBlock2D"] * len(vae.channel_mult),
    }


def _text_encoder(config: ImageLDMConfig) -> dict:
    clip = config.text_encoder
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,  # as published: the pooled output, which depends on it, is not used
        "hidden_act": clip.activation,
        "hidden_size": clip.width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * clip.width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": clip.tokens,
        "model_type": "clip_text_model",
        "num_attention_heads": clip.heads,
        "num_hidden_layers": clip.layers,
        "pad_token_id": 1,
        "projection_dim": clip.width,
        "vocab_size": clip.vocabulary,
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
    schedule, sampling = config.schedule, config.sampling
    kind, settings = _SCHEDULERS[sampling.sampler]
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
        **settings,
    }


_SCHEDULE = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
_SHARED = {
    "vae": Component("diffusers", "AutoencoderKL", _vae, ("scaling_factor",)),
    "text_encoder": Component("transformers", "CLIPTextModel", _text_encoder, ("num_attention_heads", "hidden_act")),
    "tokenizer": Component("transformers", "CLIPTokenizer", _tokenizer, file="tokenizer_config.json", network=False),
    "scheduler": Component(
        "diffusers", "", _scheduler, ("prediction_type",), _SCHEDULE, file="scheduler_config.json", network=False
    ),
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
MODELSCOPE = Folder(
    "TextToVideoSDPipeline",
    "0.15.0",
    {"unet": Component("diffusers", "UNet3DConditionModel", _modelscope_unet, ("attention_head_dim",)), **_SHARED},
)
