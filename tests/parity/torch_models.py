"""Tiny random models of diffusers and transformers, saved as the folder that a pipeline is published as."""

import copy
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from omegaconf import OmegaConf
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from svd.config import ModelConfig, UNetConfig

torch.set_num_threads(1)  # more of them only get in one another's way in networks as small as these


def torch_pipeline(config: ModelConfig, seed: int = 0) -> StableVideoDiffusionPipeline:
    """diffusers' pipeline of this model, with random weights."""
    torch.manual_seed(seed)
    pipeline = StableVideoDiffusionPipeline(
        vae=_vae(config),
        image_encoder=_image_encoder(config),
        unet=torch_unet(config.unet, config.sampling.num_frames),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            interpolation_type="linear",
            prediction_type="v_prediction",
            sigma_min=config.sampling.sigma_min,
            sigma_max=config.sampling.sigma_max,
            steps_offset=1,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
        feature_extractor=CLIPImageProcessor(do_resize=False, do_center_crop=False, do_rescale=False),
    )
    for network in (pipeline.vae, pipeline.image_encoder, pipeline.unet):
        _randomise(network)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save(pipeline: StableVideoDiffusionPipeline, config: ModelConfig, folder: Path) -> tuple[Path, Path]:
    """Write the pipeline's folder and our config beside it; returns both."""
    pipeline.save_pretrained(folder / "diffusers")
    OmegaConf.save(OmegaConf.structured(config), folder / "config.yaml")
    return folder / "diffusers", folder / "config.yaml"


def without_time(unet: UNetSpatioTemporalConditionModel) -> UNetSpatioTemporalConditionModel:
    """A copy whose blends are all space."""
    unet = copy.deepcopy(unet)
    for name, parameter in unet.named_parameters():
        if name.endswith("mix_factor"):
            torch.nn.init.constant_(parameter, 100)
    return unet


def with_one_epsilon(unet: UNetSpatioTemporalConditionModel) -> UNetSpatioTemporalConditionModel:
    """A copy whose residual blocks all have Stability's epsilon; diffusers' own is 1e-6 in most of them."""
    unet = copy.deepcopy(unet)
    for name, module in unet.named_modules():
        if name.endswith(("res_block.norm1", "res_block.norm2")):
            module.eps = 1e-5
    return unet


@torch.no_grad()
def _randomise(network: torch.nn.Module) -> None:
    """What starts as a constant, so that it could be left out unnoticed, is spread out: norms, biases and blends."""
    for name, parameter in network.named_parameters():
        if name.endswith("mix_factor"):
            parameter.normal_(0, 2)
        elif parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
    network.eval()


def torch_unet(unet: UNetConfig, num_frames: int) -> UNetSpatioTemporalConditionModel:
    """diffusers' UNet of these sizes."""
    widths = tuple(mult * unet.model_channels for mult in unet.channel_mult)
    kinds = ["CrossAttn" if 2**i in unet.attention_resolutions else "" for i in range(len(widths))]
    return UNetSpatioTemporalConditionModel(
        in_channels=unet.in_channels,
        out_channels=unet.out_channels,
        down_block_types=tuple(f"{kind}DownBlockSpatioTemporal" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlockSpatioTemporal" for kind in reversed(kinds)),
        block_out_channels=widths,
        addition_time_embed_dim=unet.vector_dim // 3,
        projection_class_embeddings_input_dim=unet.vector_dim,
        layers_per_block=unet.num_res_blocks,
        cross_attention_dim=unet.context_dim,
        num_attention_heads=tuple(width // unet.num_head_channels for width in widths),
        num_frames=num_frames,
    )


def _vae(config: ModelConfig) -> AutoencoderKLTemporalDecoder:
    vae = config.autoencoder
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(vae.channel_mult),
        block_out_channels=tuple(mult * vae.channels for mult in vae.channel_mult),
        layers_per_block=vae.num_res_blocks,
        latent_channels=vae.latent_channels,
        scaling_factor=vae.scale_factor,
    )


def _image_encoder(config: ModelConfig) -> CLIPVisionModelWithProjection:
    clip = config.image_encoder
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=clip.width,
            intermediate_size=4 * clip.width,
            num_hidden_layers=clip.layers,
            num_attention_heads=clip.heads,
            patch_size=clip.patch_size,
            image_size=clip.image_size,
            projection_dim=clip.output_dim,
            hidden_act="gelu",
        )
    )
