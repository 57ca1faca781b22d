"""Whole pipelines of diffusers, random and tiny, against ours: from prompts to latents and pixels, through the folders
that they save and the conversion of these.

diffusers' motion modules normalise over all frames of a clip, and ours do if they are asked to.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from comparison import CHAIN, assert_close
from device import AMP_LEVEL, DEVICE
from small_text import MERGES, VOCABULARY

from svd import load_pipeline
from svd.config import (
    AutoencoderConfig,
    ImageLDMConfig,
    ModelScopeLayers,
    MotionModules,
    ScheduleConfig,
    TemporalConfig,
    TextEncoderConfig,
    TextSamplingConfig,
    UNetConfig,
    VideoLDMConfig,
    dump_config,
)
from svd_tools.convert import convert

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PROMPTS, NEGATIVE = ["a fast cat", "the seven of three dogs"], "a slow photo"
LADDER = {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "in_channels": 4, "vector_dim": None}
SD_1 = UNetConfig(**LADDER, attention_resolutions=[1], num_heads=4, context_dim=32, convolution_projection=True)
SD_2 = UNetConfig(**LADDER, attention_resolutions=[1], num_head_channels=16, context_dim=32)
AUTOENCODER = AutoencoderConfig(channels=32, channel_mult=[1, 2], num_res_blocks=1, decoder="image")
TEXT_1 = TextEncoderConfig(vocabulary=len(VOCABULARY), tokens=12, width=32, layers=2, heads=2)
TEXT_2 = TextEncoderConfig(len(VOCABULARY), tokens=12, width=32, layers=2, heads=2, activation="gelu", padding="zero")
STEPS = {"height": 16, "width": 24, "sampling_steps": 4}
CONFIGS = {
    "stable_diffusion_1": ImageLDMConfig(SD_1, AUTOENCODER, TEXT_1, sampling=TextSamplingConfig(**STEPS)),
    "stable_diffusion_2": ImageLDMConfig(
        SD_2,
        AUTOENCODER,
        TEXT_2,
        "vp_v",
        sampling=TextSamplingConfig(**STEPS, guidance_rescale=0.7, spacing="trailing"),
    ),
    "animatediff": VideoLDMConfig(
        SD_1,
        AUTOENCODER,
        TEXT_1,
        schedule=ScheduleConfig("linear"),
        sampling=TextSamplingConfig(**STEPS, num_frames=3),
        temporal=TemporalConfig(motion_modules=MotionModules(heads=2, max_frames=8, middle=True, norm="clip")),
    ),
    "modelscope": VideoLDMConfig(
        SD_2,
        AUTOENCODER,
        TEXT_2,
        sampling=TextSamplingConfig(**STEPS, num_frames=3),
        temporal=TemporalConfig(modelscope=ModelScopeLayers(num_head_channels=16)),
    ),
}


# --- diffusers' ---


@torch.no_grad()
def randomised(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """What starts as a constant is spread out: norms, biases, and layers that end a branch."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
        elif not parameter.any():
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    return network.eval()


def torch_unet(config: ImageLDMConfig, name: str) -> torch.nn.Module:
    ladder = {"block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 32}
    if name == "animatediff":
        return diffusers.UNetMotionModel(
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
            num_attention_heads=4,
            motion_num_attention_heads=2,
            motion_max_seq_length=8,
            use_motion_mid_block=True,
            **ladder,
        )
    if name == "modelscope":
        return diffusers.UNet3DConditionModel(
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            attention_head_dim=16,
            **ladder,
        )
    return diffusers.UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=config.unet.num_heads or (2, 4),
        use_linear_projection=not config.unet.convolution_projection,
        **ladder,
    )


def torch_pipeline(name: str):
    config = CONFIGS[name]
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        latent_channels=4,
        scaling_factor=config.autoencoder.scale_factor,
    )
    text = config.text_encoder
    text_encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=text.vocabulary,
            max_position_embeddings=text.tokens,
            hidden_size=text.width,
            intermediate_size=4 * text.width,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            hidden_act=text.activation,
            initializer_factor=5.0,  # so that attention is not all but uniform
        )
    )
    merges = [tuple(merge.split(" ")) for merge in MERGES]
    padding = {"pad_token": "!"} if text.padding == "zero" else {}
    tokenizer = transformers.CLIPTokenizer(vocab=VOCABULARY, merges=merges, model_max_length=text.tokens, **padding)
    parts = {
        "vae": randomised(vae, 1),
        "text_encoder": randomised(text_encoder, 2),
        "unet": randomised(torch_unet(config, name), 3),
        "tokenizer": tokenizer,
        "scheduler": diffusers.DDIMScheduler(
            beta_start=config.schedule.beta_start,
            beta_end=config.schedule.beta_end,
            beta_schedule=config.schedule.betas,
            prediction_type={"vp_eps": "epsilon", "vp_v": "v_prediction"}[config.preconditioning],
            timestep_spacing=config.sampling.spacing,
            steps_offset=config.sampling.offset,
            clip_sample=False,
            set_alpha_to_one=False,
        ),
    }
    if name == "animatediff":
        pipe = diffusers.AnimateDiffPipeline(**parts, motion_adapter=None)
    elif name == "modelscope":
        pipe = diffusers.TextToVideoSDPipeline(**parts)
    else:
        options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = diffusers.StableDiffusionPipeline(**parts, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Pair:
    """A pipeline of diffusers, and ours of the same weights."""

    def __init__(self, name: str, folder: Path):
        self.name, self.config = name, CONFIGS[name]
        self.torch = torch_pipeline(name)
        self.torch.save_pretrained(folder / "diffusers")
        (folder / "model.yaml").write_text(dump_config(self.config))
        self._checkpoint = convert(folder / "diffusers", folder / "model.yaml", folder / "converted")
        self.ours = cache(self._load)
        shape = (2, self.config.sampling.num_frames, 4, 8, 12)
        self.noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        self.expected = cache(self._run)

    def _load(self, mode: int):
        return load_pipeline(checkpoint=self._checkpoint, device_target=DEVICE, mode=mode, amp_level=AMP_LEVEL)

    def _run(self, output: str) -> np.ndarray:
        """Latents [b t c h w], or pixels [b t h w 3] in [0, 1]; without t for images."""
        sampling = self.config.sampling
        latents = torch.from_numpy(self.noise.transpose(0, 2, 1, 3, 4))
        if sampling.num_frames == 1:
            latents = latents[:, :, 0]
            options = {"guidance_rescale": sampling.guidance_rescale}
        else:
            options = {"num_frames": sampling.num_frames}
        result = self.torch(
            PROMPTS,
            negative_prompt=[NEGATIVE] * 2,
            height=sampling.height,
            width=sampling.width,
            num_inference_steps=sampling.sampling_steps,
            guidance_scale=sampling.guidance,
            latents=latents,
            output_type={"latents": "latent", "float": "np"}[output],
            **options,
        )
        found = np.asarray(result.images if sampling.num_frames == 1 else result.frames)
        return found.swapaxes(1, 2) if output == "latents" and found.ndim == 5 else found


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory):
    """The pair of a config's name, made once."""
    return cache(lambda name: Pair(name, tmp_path_factory.mktemp(name)))


@pytest.mark.parametrize("name", CONFIGS)
def test_pipeline(mode, pair_of, monkeypatch, name):
    """Two prompts, from words to latents and pixels, with a negative prompt."""
    if name == "stable_diffusion_1" and mode == 0:
        pytest.skip("compiles nothing that the others do not")
    pair, decoded = pair_of(name), []
    ours = pair.ours(mode)

    def decode(latents, *others):
        decoded.append(latents.reshape(pair.expected("latents").shape))
        return type(ours).decode(ours, latents, *others)

    monkeypatch.setattr(ours, "decode", decode)
    result = ours(PROMPTS, NEGATIVE, noise=pair.noise, output="float", progress=False)
    assert_close(*decoded, pair.expected("latents"), CHAIN)
    assert_close(result, pair.expected("float"), CHAIN)
