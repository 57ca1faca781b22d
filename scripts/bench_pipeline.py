"""Time and memory of the other networks and of a whole video, against PyTorch (diffusers, transformers).

    python scripts/bench_pipeline.py                           # one table after the other
    python scripts/bench_pipeline.py --part video --repeats 3

decoder: the temporal decoder at full size, 8 frames of 256 x 256. image_encoder: CLIP's image tower at full size, one
image. video: from an image to 8 frames of 256 x 256 in 5 steps with guidance, by a model of 107 M parameters. Both
sides load the same weights from files of their own, and compute the same in float32. Prints Markdown tables, and with
--profile which operators this project's time goes into.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import bench_models as models
import interleaved
import numpy as np
from interleaved import Build, Built, Call
from PIL import Image

AUTOENCODER = ("conditioner.autoencoder.encoder.", "autoencoder.decoder.")
IMAGE_ENCODER = ("conditioner.image_encoder.",)
UNET = ("network.",)
GUIDANCE = [1.0, 2.5]
TOLD = {"fps": 7, "motion_bucket_id": 127, "noise_aug_strength": 0.0}  # diffusers draws the image's noise by itself


@dataclass(frozen=True)
class Video:
    """A model, and the size of its videos."""

    networks: models.Settings
    frames: int
    pixels: int
    """On each axis."""
    steps: int
    image_size: int = 224
    """Pixels of the image encoder's input, on each axis."""
    downsampling: int = 8

    @property
    def settings(self) -> models.Settings:
        size = {"num_frames": self.frames, "height": self.pixels, "width": self.pixels, "sampling_steps": self.steps}
        sampling = {**size, **TOLD, "guidance": GUIDANCE, "decode_chunk_size": self.frames}
        return {**self.networks, "sampling": sampling, "trained_range": {"noise_aug_strength": [0, 0]}}

    def random_latents(self) -> np.ndarray:
        """[t c h w]"""
        side = self.pixels // self.downsampling
        return np.random.default_rng(0).standard_normal((self.frames, 4, side, side), np.float32)

    def random_pixels(self) -> np.ndarray:
        """What the image encoder is given, [1 3 s s]."""
        return np.random.default_rng(0).standard_normal((1, 3, self.image_size, self.image_size), np.float32)

    def random_image(self) -> Image.Image:
        return Image.fromarray(np.random.default_rng(0).integers(0, 256, (self.pixels, self.pixels, 3), np.uint8))


FULL = Video({}, frames=8, pixels=256, steps=25)
MODERATE = Video(
    {
        "unet": models.SIZES["medium"].unet,
        "autoencoder": {"channels": 32},
        "image_encoder": {"width": 640, "layers": 8, "heads": 8},
    },
    frames=8,
    pixels=256,
    steps=5,
)
TINY = Video(
    {
        "unet": models.SIZES["tiny"].unet,
        "autoencoder": {"channels": 32, "channel_mult": [1, 1]},
        "image_encoder": {"width": 32, "layers": 1, "heads": 2, "patch_size": 56, "output_dim": 16},
    },
    frames=3,
    pixels=16,
    steps=2,
    downsampling=2,
)


@dataclass(frozen=True)
class Part:
    """What is measured."""

    video: Video
    networks: tuple[str, ...]
    """Of the model, by the prefix of their parameters."""
    sides: tuple[Build, Build]
    inputs: str
    unit: str = "call"


def main() -> None:
    parser = models.command_line(__doc__.splitlines()[0])
    parser.add_argument("--part", choices=tuple(PARTS), help="only this one")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to see that everything runs")
    options = parser.parse_args()
    for name in [options.part] if options.part else PARTS:
        part = replace(PARTS[name], video=TINY) if options.tiny else PARTS[name]
        print(f"## {name}\n", flush=True)
        inputs = part.inputs.format(**vars(part.video))
        models.compare(part.sides, part.video.settings, part.networks, (part.video,), options, part.unit, inputs)


# --- decoder ---


def mindspore_decoder(folder: Path, video: Video) -> tuple[Built, Call]:
    from svd.autoencoder.decoder import Decoder
    from svd.autoencoder.encoder import Encoder

    config = models.model_config(video.settings).autoencoder
    networks = {
        "autoencoder.decoder": lambda: Decoder(config),
        "conditioner.autoencoder.encoder": lambda: Encoder(config, quant_conv=True),
    }
    (decoder, _), built = models.load_networks(networks, folder)  # diffusers loads both
    return built, models.call_of(decoder, video.random_latents()[None])


def pytorch_decoder(folder: Path, video: Video) -> tuple[Built, Call]:
    import torch
    from diffusers import AutoencoderKLTemporalDecoder

    autoencoder, built = models.load_pretrained(AutoencoderKLTemporalDecoder, folder / models.DIFFUSERS / "vae")
    z = torch.from_numpy(video.random_latents())
    return built, torch.inference_mode()(lambda: autoencoder.decode(z, num_frames=len(z)).sample[None].numpy())


# --- image encoder ---


def mindspore_image_encoder(folder: Path, video: Video) -> tuple[Built, Call]:
    from svd.conditioning.image_encoder import ImageEncoder

    config = models.model_config(video.settings).image_encoder
    (encoder,), built = models.load_networks({"conditioner.image_encoder": lambda: ImageEncoder(config)}, folder)
    return built, models.call_of(encoder, video.random_pixels())


def pytorch_image_encoder(folder: Path, video: Video) -> tuple[Built, Call]:
    import torch
    from transformers import CLIPVisionModelWithProjection

    encoder, built = models.load_pretrained(CLIPVisionModelWithProjection, folder / models.DIFFUSERS / "image_encoder")
    pixels = torch.from_numpy(video.random_pixels())
    return built, torch.inference_mode()(lambda: encoder(pixels).image_embeds.numpy())


# --- video ---


def mindspore_video(folder: Path, video: Video) -> tuple[Built, Call]:
    from svd import load_pipeline

    start = time.perf_counter()
    pipe = load_pipeline(checkpoint=folder / models.CHECKPOINT, device_target="CPU")
    networks = (
        pipe.denoiser.network,
        pipe.conditioner.image_encoder,
        pipe.autoencoder.encoder,
        pipe.autoencoder.decoder,
    )
    parameters = sum(parameter.size for network in networks for parameter in network.get_parameters())
    built = Built(time.perf_counter() - start, parameters)
    image, noise = video.random_image(), video.random_latents()[None]
    return built, lambda: pipe(image, noise=noise, output="float", progress=False)


def pytorch_video(folder: Path, video: Video) -> tuple[Built, Call]:
    import torch
    from diffusers import StableVideoDiffusionPipeline

    torch.set_num_threads(interleaved.cores())
    start = time.perf_counter()
    pipe = StableVideoDiffusionPipeline.from_pretrained(folder / models.DIFFUSERS)
    networks = (pipe.unet, pipe.image_encoder, pipe.vae)
    built = Built(time.perf_counter() - start, sum(network.num_parameters() for network in networks))
    pipe.set_progress_bar_config(disable=True)
    image, noise = video.random_image(), torch.from_numpy(video.random_latents()[None])
    settings = {
        "height": video.pixels,
        "width": video.pixels,
        "num_frames": video.frames,
        "num_inference_steps": video.steps,
        "min_guidance_scale": GUIDANCE[0],
        "max_guidance_scale": GUIDANCE[1],
        "decode_chunk_size": video.frames,
        **TOLD,
    }
    return built, lambda: pipe(image, latents=noise, output_type="np", **settings).frames[0]


PARTS = {
    "decoder": Part(FULL, AUTOENCODER, (mindspore_decoder, pytorch_decoder), "{frames} frames of {pixels} x {pixels}"),
    "image_encoder": Part(
        FULL, IMAGE_ENCODER, (mindspore_image_encoder, pytorch_image_encoder), "1 image of {image_size} x {image_size}"
    ),
    "video": Part(
        MODERATE,
        UNET + IMAGE_ENCODER + AUTOENCODER,
        (mindspore_video, pytorch_video),
        "{frames} frames of {pixels} x {pixels}, {steps} steps",
        "video",
    ),
}


if __name__ == "__main__":
    main()
