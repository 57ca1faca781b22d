"""The layouts of models in pixel space: xdiffusion's and lucidrains', which are read."""

from __future__ import annotations

from svd.checkpoints.tensor_header import CheckpointError
from svd.config import VideoDiffusionConfig
from svd_tools.checkpoints.layout import Layout, Place
from svd_tools.checkpoints.names.lucidrains import LUCIDRAINS_UNET
from svd_tools.checkpoints.names.pixel_unet import PIXEL_UNET


def _check_xdiffusion(config: VideoDiffusionConfig, whole: bool) -> None:
    temporal, why = config.temporal, ""
    if config.lucidrains is not None:
        why = "lucidrains is another network"
    elif temporal.video_ldm is not None:
        why = "temporal.video_ldm attends across frames; that of xdiffusion is temporal.text_attention"
    elif temporal.factorised is not None and not temporal.reference:
        why = "its Video Diffusion Models compute as temporal.factorised.reference: true says"
    if why:
        raise CheckpointError(f"the config is of no model of xdiffusion's: {why}")


def _check_lucidrains(config: VideoDiffusionConfig, whole: bool) -> None:
    if config.lucidrains is None:
        raise CheckpointError("the config is of no model of lucidrains': it has no section lucidrains")


_NETWORK = r"_score_network\."
XDIFFUSION = Layout(
    name="xdiffusion",
    kinds=(VideoDiffusionConfig,),
    owner="xdiffusion's",
    title="xdiffusion's layout",
    ending="",
    mark="_score_network.",
    needs={},
    places={"network": Place("_score_network", PIXEL_UNET, "xdiffusion")},
    first="_initial_convolution.weight",
    # tables of the schedule, text encoders and their copies, copies of projections, and a parameter without a use
    ignored=rf"_noise_scheduler\.|{_NETWORK}(_projections\.text_tokens\.|_context_transformers\.|.*\.pos_enc\.dummy$)",
    copies=((rf"{_NETWORK}_context_transformers\.\d+\._projections\.timestep\.(.*)",
             r"_score_network._projections.timestep.\1"),),
    check=_check_xdiffusion,
)  # fmt: skip
LUCIDRAINS = Layout(
    name="lucidrains",
    kinds=(VideoDiffusionConfig,),
    owner="lucidrains'",
    title="the layout of lucidrains/video-diffusion-pytorch",
    ending="",
    mark="init_temporal_attn.",
    needs={},
    places={"network": Place("", LUCIDRAINS_UNET, "lucidrains")},
    first="fn.norm.gamma",
    ignored=r".*\.rotary_emb\.freqs$",
    copies=((r".*\.rotary_emb\.freqs", "init_temporal_attn.fn.fn.fn.rotary_emb.freqs"),),
    check=_check_lucidrains,
)
