"""The layouts of checkpoints that are known: a record each."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Optional

import numpy as np

from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ImageLDMConfig, Model, ModelConfig, UpsamplerConfig, VideoDiffusionConfig, VideoLDMConfig
from svd.config.temporal import ModelScopeLayers, MotionModules, TextAttentionLayers, VideoLDMLayers
from svd_tools.checkpoints import diffusers_pipelines
from svd_tools.checkpoints.layout import Layout, Place, kind_of
from svd_tools.checkpoints.names import text_unet
from svd_tools.checkpoints.names.autoencoder import DECODER, ENCODER
from svd_tools.checkpoints.names.clip import CLIP, TEXT_ENCODER
from svd_tools.checkpoints.names.lucidrains import LUCIDRAINS_UNET
from svd_tools.checkpoints.names.pixel_unet import PIXEL_UNET
from svd_tools.checkpoints.names.unet import UNET
from svd_tools.checkpoints.tables import Shape

OURS = "svd"
"""The name of this project's layout, which every kind of model has."""
TEXT_KINDS = (ImageLDMConfig, VideoLDMLayers, MotionModules, ModelScopeLayers, TextAttentionLayers)
KIND_TITLES = {
    ModelConfig: "Stable Video Diffusion",
    ImageLDMConfig: "Stable Diffusion",
    VideoLDMLayers: "VideoLDM",
    MotionModules: "Stable Diffusion with AnimateDiff's motion modules",
    ModelScopeLayers: "ModelScope's text-to-video",
    TextAttentionLayers: "srpkdyy/VideoLDM",
    VideoDiffusionConfig: "Video Diffusion Models",
    UpsamplerConfig: "Stable Diffusion's x4 upscaler",
}
"""What the kinds of models are called in messages."""

# --- image to video ---

SVD = Layout(
    name=OURS,
    kinds=(ModelConfig,),
    title="this project's layout",
    ending=".safetensors",
    mark="network.",
    needs={"image encoder (CLIP)": ("conditioner.image_encoder.",), "autoencoder": ("autoencoder.decoder.",)},
)
CLIP_SGM = "conditioner.embedders.0.open_clip.model.visual"
IMAGE_SGM = "conditioner.embedders.3.encoder"
FIRST_STAGE = "first_stage_model"
_POSITIONS = r".*\.vision_model\.embeddings\.position_ids$"
SGM = Layout(
    name="sgm",
    kinds=(ModelConfig,),
    title="Stability's layout (sgm)",
    ending="_sgm.safetensors",
    mark="model.diffusion_model.",
    needs={
        "image encoder (CLIP)": (f"{CLIP_SGM}.",),
        "autoencoder": (f"{FIRST_STAGE}.decoder.",),
        "encoder of an autoencoder": (f"{FIRST_STAGE}.encoder.", f"{IMAGE_SGM}."),
    },
    places={
        "network": Place("model.diffusion_model", UNET, "sgm"),
        "conditioner.image_encoder": Place(CLIP_SGM, CLIP, "sgm"),
        "conditioner.autoencoder.encoder": Place(IMAGE_SGM, ENCODER, "sgm"),
        "conditioner.autoencoder.decoder": Place(IMAGE_SGM, DECODER, "sgm"),
        "autoencoder.encoder": Place(FIRST_STAGE, ENCODER, "sgm"),
        "autoencoder.decoder": Place(FIRST_STAGE, DECODER, "sgm"),
    },
    first="",
    unet=r"(?P<root>(^|.*\.))input_blocks\.0\.0\.",
    averages="model_ema.",
    ignored=rf"conditioner\.embedders\.0\.open_clip\.model\.(?!visual\.)|{_POSITIONS}",  # CLIP's text tower
)
DIFFUSERS = Layout(
    name="diffusers",
    kinds=(ModelConfig,),
    title="diffusers' layout",
    ending="_diffusers",
    mark="unet.",
    needs={"image encoder (CLIP)": ("image_encoder.",), "autoencoder": ("vae.",)},
    places={
        "network": Place("unet", UNET, "diffusers"),
        "conditioner.image_encoder": Place("image_encoder", CLIP, "diffusers"),
        "conditioner.autoencoder.encoder": Place("vae", ENCODER, "diffusers"),
        "conditioner.autoencoder.decoder": None,
        "autoencoder.encoder": None,
        "autoencoder.decoder": Place("vae", DECODER, "diffusers"),
    },
    unet=r"(?P<root>(^|.*\.))down_blocks\.0\.(resnets|attentions|motion_modules)\.0\.",
    ignored=_POSITIONS,
    check=diffusers_pipelines.check_image_to_video,
    folder=diffusers_pipelines.IMAGE_TO_VIDEO,
)

# --- text to image and to video ---

_CLIP_TRANSFORMERS, _CLIP_OPEN = "cond_stage_model.transformer", "cond_stage_model.model"
_BUFFERS = "betas|alphas_cumprod|sqrt_|log_one_minus_|posterior_|lvlb_weights|logvar|scale_factor|denoiser\\.sigmas"
"""Beginnings of names of schedules in the files of ldm's and sgm's trainings."""
_TOWER_OTHERS = r"(transformer\.resblocks\.{layers}\.|text_projection$|logit_scale$|attn_mask$|visual\.)"
"""What text towers of OpenCLIP have beside what Stable Diffusion 2 uses: its last layer, for one."""
_TEXT_MODEL = (
    r"^(cond_stage_model\.transformer|text_encoder)\.(embeddings|encoder|final_layer_norm)\.",
    r"\1.text_model.\2.",
)
"""transformers 5.6 and later leave a prefix out."""


def _token_positions(config: ImageLDMConfig, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """The buffer of transformers' text tower that files of Stable Diffusion 1 have."""
    tower = f"{_CLIP_TRANSFORMERS}.text_model.embeddings."
    if f"{tower}position_embedding.weight" not in shapes:
        return {}
    return {f"{tower}position_ids": np.arange(config.text_encoder.tokens, dtype=np.int64)[None]}


def _frame_positions(config: VideoLDMConfig, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """The buffers of motion modules: sine and cosine of each frequency side by side, float32 [1 frames c]."""
    found, frames = {}, np.arange(config.temporal.layers.max_frames, dtype=np.float32)[:, None]
    for name, shape in shapes.items():
        match = re.fullmatch(r"(.*motion_modules\..*)\.(attn1|attention_blocks\.0)\.to_q\.weight", name)
        if match is None:
            continue
        even = np.arange(0, shape[0], 2, dtype=np.float32)
        angles = frames * np.exp(even * np.float32(-math.log(10000) / shape[0]))
        positions = np.stack((np.sin(angles), np.cos(angles)), 2).reshape(1, len(frames), shape[0])
        buffers = [f"attention_blocks.{k}.pos_encoder.pe" for k in (0, 1)]
        for buffer in ["pos_embed.pe"] if match[2] == "attn1" else buffers:
            found[f"{match[1]}.{buffer}"] = positions
    return found


OURS_TEXT = replace(
    SVD,
    kinds=TEXT_KINDS,
    needs={"text encoder": ("text_encoder.",), "autoencoder": ("autoencoder.encoder.", "autoencoder.decoder.")},
)
OURS_PIXELS = replace(SVD, kinds=(VideoDiffusionConfig,), needs={})
LDM_1 = replace(
    SGM,
    kinds=(ImageLDMConfig,),
    title="the layout of Stable Diffusion's single file",
    needs={
        "text encoder": (f"{_CLIP_TRANSFORMERS}.",),
        "autoencoder": (f"{FIRST_STAGE}.decoder.",),
        "encoder of an autoencoder": (f"{FIRST_STAGE}.encoder.",),
    },
    places={
        "network": Place("model.diffusion_model", text_unet.IMAGE, "sgm"),
        "text_encoder": Place(_CLIP_TRANSFORMERS, TEXT_ENCODER, "diffusers"),
        "autoencoder.encoder": Place(FIRST_STAGE, ENCODER, "sgm"),
        "autoencoder.decoder": Place(FIRST_STAGE, DECODER, "sgm"),
    },
    first="input_blocks.0.0.weight",
    aliases=(_TEXT_MODEL,),
    ignored="|".join((
        _BUFFERS,
        r"cond_stage_model\.(transformer\.)?(text_projection|logit_scale|vision_model|visual_projection)\b",
        r"cond_stage_model\..*\.position_ids$",
        r"first_stage_model\.loss\.",
    )),
    constants=_token_positions,
    check=diffusers_pipelines.check_decoder,
    suits=lambda config: config.text_encoder.activation == "quick_gelu",
)  # fmt: skip
LDM_2 = replace(
    LDM_1,
    needs=LDM_1.needs | {"text encoder": (f"{_CLIP_OPEN}.",)},
    places=LDM_1.places | {"text_encoder": Place(_CLIP_OPEN, TEXT_ENCODER, "sgm")},
    ignored=rf"{LDM_1.ignored}|cond_stage_model\.model\.{_TOWER_OTHERS}",
    suits=lambda config: config.text_encoder.activation == "gelu",
)
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What diffusers called the layers of the autoencoder's attention before release 0.13, and what since."""
STABLE_DIFFUSION = replace(
    DIFFUSERS,
    kinds=(ImageLDMConfig,),
    needs={"text encoder": ("text_encoder.",), "autoencoder": ("vae.",)},
    places={
        "network": Place("unet", text_unet.IMAGE, "diffusers"),
        "text_encoder": Place("text_encoder", TEXT_ENCODER, "diffusers"),
        "autoencoder.encoder": Place("vae", ENCODER, "diffusers"),
        "autoencoder.decoder": Place("vae", DECODER, "diffusers"),
    },
    aliases=(
        _TEXT_MODEL,
        *((rf"^(vae\..*\.attentions\.0)\.{old}\.", rf"\1.{new}.") for old, new in _OLD_ATTENTION.items()),
    ),
    ignored=r".*\.position_ids$|text_encoder\.text_projection\.",
    check=diffusers_pipelines.check_stable_diffusion,
    folder=diffusers_pipelines.STABLE_DIFFUSION,
    alone=True,
)
_ANIMATEDIFF_FOLDER = replace(
    STABLE_DIFFUSION,
    kinds=(MotionModules,),
    places=STABLE_DIFFUSION.places | {"network": Place("unet", text_unet.MOTION_MODULES, "diffusers")},
    ignored=rf"{STABLE_DIFFUSION.ignored}|unet\..*\.pos_embed\.pe$",
    constants=_frame_positions,
    folder=diffusers_pipelines.ANIMATEDIFF,
)
ANIMATEDIFF = Layout(
    name="animatediff",
    kinds=(MotionModules,),
    title="AnimateDiff's layout, of motion modules alone",
    ending="_animatediff.safetensors",
    mark="down_blocks.0.motion_modules.0.temporal_transformer.",
    needs={},
    places={
        "network": Place("", text_unet.MOTION_MODULES, "animatediff"),
        **dict.fromkeys(("text_encoder", "autoencoder.encoder", "autoencoder.decoder")),
    },
    first="norm.weight",
    partial="image model",
    ignored=r".*\.pos_encoder\.pe$|(?!.*motion_modules\.)",  # trainings store the frozen layers, too
    constants=_frame_positions,
)
_MODELSCOPE_FOLDER = replace(
    STABLE_DIFFUSION,
    kinds=(ModelScopeLayers,),
    places=STABLE_DIFFUSION.places | {"network": Place("unet", text_unet.MODELSCOPE, "diffusers")},
    check=diffusers_pipelines.check_modelscope,
    folder=diffusers_pipelines.MODELSCOPE,
)
MODELSCOPE = Layout(
    name="modelscope",
    kinds=(ModelScopeLayers,),
    title="ModelScope's layout",
    ending="",
    mark="text2video_pytorch_model.",
    needs={"text encoder": ("open_clip_pytorch_model.",), "autoencoder": ("VQGAN_autoencoder.",)},
    places={
        "network": Place("text2video_pytorch_model", text_unet.MODELSCOPE, "sgm"),
        "text_encoder": Place("open_clip_pytorch_model", TEXT_ENCODER, "sgm"),
        "autoencoder.encoder": Place("VQGAN_autoencoder.first_stage_model", ENCODER, "sgm"),
        "autoencoder.decoder": Place("VQGAN_autoencoder.first_stage_model", DECODER, "sgm"),
    },
    first="input_blocks.0.0.weight",
    unet=SGM.unet,
    aliases=(
        (r"^([^.]+)\.state_dict\.", r"\1."),
        (r"^(text2video_pytorch_model\.input_blocks\.\d+)\.op\.", r"\1.0.op."),
        (r"^VQGAN_autoencoder\.((en|de)coder|(post_)?quant_conv)\.", r"VQGAN_autoencoder.first_stage_model.\1."),
    ),
    files=("text2video_pytorch_model.pth", "VQGAN_autoencoder.pth", "open_clip_pytorch_model.bin"),
    ignored=rf"open_clip_pytorch_model\.{_TOWER_OTHERS}|VQGAN_autoencoder\.(?!first_stage_model\.(?!loss\.))",
)
_TEXT_ATTENTION_FOLDER = replace(
    STABLE_DIFFUSION,
    kinds=(TextAttentionLayers,),
    title="the layout of srpkdyy/VideoLDM",
    ending="",
    places=STABLE_DIFFUSION.places | {"network": Place("unet", text_unet.TEXT_ATTENTION, "diffusers")},
    ignored=rf"{STABLE_DIFFUSION.ignored}|unet\..*\.pos_enc\.dummy$",
)

# --- upsamplers ---

OURS_UPSAMPLER = replace(SVD, kinds=(UpsamplerConfig,), needs={})
UPSAMPLER_FILE = replace(
    LDM_2,
    kinds=(UpsamplerConfig,),
    places=LDM_2.places | {"network": Place("model.diffusion_model", text_unet.UPSAMPLER, "sgm")},
    ignored=rf"{LDM_2.ignored}|low_scale_model\.",  # the schedule of the low-resolution image
    check=diffusers_pipelines.check_upsampler,
    suits=lambda config: True,
)
UPSAMPLER_FOLDER = replace(
    STABLE_DIFFUSION,
    kinds=(UpsamplerConfig,),
    places=STABLE_DIFFUSION.places | {"network": Place("unet", text_unet.UPSAMPLER, "diffusers")},
    check=diffusers_pipelines.check_upsampler,
    folder=diffusers_pipelines.UPSAMPLER,
)

# --- pixel space ---


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

LAYOUTS = (
    SVD, SGM, DIFFUSERS, OURS_TEXT, OURS_PIXELS, LDM_1, LDM_2, STABLE_DIFFUSION, ANIMATEDIFF, _ANIMATEDIFF_FOLDER,
    MODELSCOPE, _MODELSCOPE_FOLDER, _TEXT_ATTENTION_FOLDER, XDIFFUSION, LUCIDRAINS,
    OURS_UPSAMPLER, UPSAMPLER_FILE, UPSAMPLER_FOLDER,
)  # fmt: skip
"""All of them; a file is of the first that fits among those of its kind."""
ENDINGS = {layout.name: layout.ending for layout in LAYOUTS if layout.ending}
"""Suffixes of what is written, by the names of the layouts."""


def layouts_of(config: Model) -> list[Layout]:
    """The layouts that a model of this kind may be in."""
    return [layout for layout in LAYOUTS if kind_of(config) in layout.kinds]


def find_layout(config: Model, name: str) -> Layout:
    """The layout of this name in which models of the configuration's kind are written.

    Raises CheckpointError if there is none.
    """
    written = [layout for layout in layouts_of(config) if layout.ending]
    for layout in written:
        if layout.name == name and layout.suits(config):
            return layout
    title, names = KIND_TITLES[kind_of(config)], ", ".join(dict.fromkeys(layout.name for layout in written))
    raise CheckpointError(f"{title} has no layout {name}; it is written as {names}", setting="to")


def detect_layout(names: Collection[str], layouts: Collection[Layout]) -> Optional[Layout]:
    """Which of the layouts these names are of: the first of which all networks are there, or of which the UNet is."""
    found = [layout for layout in layouts if any(name.startswith(layout.mark) for name in names)]
    whole = (layout for layout in found if not missing_networks(layout, names))
    return next(whole, found[0] if found else None)


def missing_networks(layout: Layout, names: Collection[str]) -> list[str]:
    """What the layout needs, the UNet included, and these names have not."""
    needs = {"UNet": (layout.mark,), **layout.needs}
    return [title for title, fronts in needs.items() if not any(name.startswith(fronts) for name in names)]
