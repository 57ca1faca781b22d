"""Stable Diffusion's x4 upscaler against diffusers: its UNet, and its whole pipeline through the folder that diffusers
saves and the conversion of that.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from comparison import CHAIN, assert_close
from device import AMP_LEVEL, DEVICE
from mindspore import Tensor
from small_text import MERGES, VOCABULARY

from svd import load_pipeline
from svd.config import (
    AutoencoderConfig,
    LowResolutionConfig,
    ScheduleConfig,
    TextEncoderConfig,
    UpsamplerConfig,
    UpsamplerUNetConfig,
    UpsamplingConfig,
    dump_config,
)
from svd_tools.convert import convert

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PROMPT, NEGATIVE = "a fast cat", "a slow photo"
CONFIG = UpsamplerConfig(
    unet=UpsamplerUNetConfig(
        model_channels=32,
        channel_mult=[1, 2, 2],
        num_res_blocks=1,
        attention_resolutions=[2, 4],
        cross_attention_only=[2],
        num_heads=4,
        context_dim=32,
    ),
    autoencoder=AutoencoderConfig(
        channels=32, channel_mult=[1, 2, 2], num_res_blocks=1, decoder="image", scale_factor=0.08333
    ),
    text_encoder=TextEncoderConfig(len(VOCABULARY), 12, 32, 2, 2, activation="gelu", padding="zero"),
    low_resolution=LowResolutionConfig(schedule=ScheduleConfig("linear", 0.0001, 0.02)),
    sampling=UpsamplingConfig(noise_level=70, sampling_steps=4),
)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 1, (2, 12, 20, 3)).astype(np.float32)
"""Two images, as if they were frames: a model of images treats them apart."""


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


def torch_pipeline():
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        in_channels=7,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        use_linear_projection=True,
        only_cross_attention=(True, True, False),
        num_class_embeds=1000,
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        latent_channels=4,
        scaling_factor=0.08333,
    )
    text = CONFIG.text_encoder
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
    tokenizer = transformers.CLIPTokenizer(vocab=VOCABULARY, merges=merges, model_max_length=text.tokens, pad_token="!")
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    pipe = diffusers.StableDiffusionUpscalePipeline(
        vae=randomised(vae, 1),
        text_encoder=randomised(text_encoder, 2),
        unet=randomised(unet, 3),
        tokenizer=tokenizer,
        scheduler=scheduler,
        low_res_scheduler=diffusers.DDPMScheduler(),  # linear, not as in the published model
        max_noise_level=350,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Pair:
    """The pipeline of diffusers, and ours of the same weights."""

    def __init__(self, folder: Path):
        self.torch = torch_pipeline()
        self.torch.save_pretrained(folder / "diffusers")
        (folder / "model.yaml").write_text(dump_config(CONFIG))
        self.folder, self.config = folder / "diffusers", folder / "model.yaml"
        self.checkpoint = convert(self.folder, self.config, folder / "converted")
        self.ours = cache(self._load)
        self.noise = RNG.standard_normal((2, 4, 12, 20)).astype(np.float32)
        self.expected = cache(self._run)

    def _load(self, mode: int):
        return load_pipeline(checkpoint=self.checkpoint, device_target=DEVICE, mode=mode, amp_level=AMP_LEVEL)

    def low_noise(self) -> np.ndarray:
        """What diffusers draws first."""
        generator = torch.Generator().manual_seed(5)
        return torch.randn((2, 3, 12, 20), generator=generator).numpy()

    def _run(self, output: str) -> np.ndarray:
        result = self.torch(
            [PROMPT] * 2,
            torch.from_numpy(IMAGES.transpose(0, 3, 1, 2)) * 2 - 1,
            num_inference_steps=4,
            guidance_scale=9.0,
            noise_level=70,
            negative_prompt=[NEGATIVE] * 2,
            generator=torch.Generator().manual_seed(5),
            latents=torch.from_numpy(self.noise),
            output_type={"latents": "latent", "float": "np"}[output],
        )
        return np.asarray(result.images)


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> Pair:
    return Pair(tmp_path_factory.mktemp("upsampler"))


def test_unet(mode, pair):
    """Two clips of two frames, of a text, a timestep and a noise level each; by the graphs that the pipeline runs."""
    x, seen = (RNG.standard_normal((2, 2, c, 12, 20)).astype(np.float32) for c in (4, 3))
    context = RNG.standard_normal((2, 12, 32)).astype(np.float32)
    timesteps, levels = np.array([999, 761]), [349, 20]
    ours = pair.ours(mode)
    c_skip, c_out, c_in, _ = (
        c.reshape(2, 1, 1, 1, 1) for c in ours.denoiser.preconditioning.coefficients(ours.sigmas[timesteps])
    )
    with torch.no_grad():
        expected = pair.torch.unet(
            torch.from_numpy(np.concatenate([c_in.astype(np.float32) * x, seen], 2).reshape(4, 7, 12, 20)),
            torch.from_numpy(timesteps.repeat(2)),
            torch.from_numpy(context.repeat(2, 0)),
            class_labels=torch.tensor(levels).repeat_interleave(2),
        ).sample.numpy()
    denoise = ours.denoiser.bind(ours.conditioner(seen, levels, Tensor(context)))
    result = (denoise(x, ours.sigmas[timesteps]).asnumpy() - c_skip * x) / c_out
    assert_close(result.reshape(expected.shape), expected)


def test_pipeline(mode, pair):
    """From images and words to latents and pixels, with a negative prompt."""
    given = {"noise": pair.noise, "low_noise": pair.low_noise(), "progress": False}
    for output in ("latents", "float"):
        result = pair.ours(mode)(IMAGES, PROMPT, NEGATIVE, output=output, **given)
        assert_close(result, pair.expected(output), CHAIN)


def test_diffusers_loads_what_is_written(pair, tmp_path):
    """Its settings are those that it was saved with, and what it was saved with is converted to the same file."""
    written = convert(pair.checkpoint, pair.config, tmp_path, to="diffusers")
    again = diffusers.StableDiffusionUpscalePipeline.from_pretrained(written)
    assert again.config.max_noise_level == 350
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(again, part).state_dict(), getattr(pair.torch, part).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.vae.config.scaling_factor == pytest.approx(0.08333)
    for scheduler, names in (
        ("scheduler", ("prediction_type", "beta_schedule", "beta_start", "beta_end", "steps_offset", "clip_sample")),
        ("low_res_scheduler", ("beta_schedule", "beta_start", "beta_end")),
    ):
        found, expected = getattr(again, scheduler).config, getattr(pair.torch, scheduler).config
        assert [found[name] for name in names] == [expected[name] for name in names]
    assert convert(written, pair.config, tmp_path / "back").read_bytes() == pair.checkpoint.read_bytes()
