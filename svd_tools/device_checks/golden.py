"""The values that Stability's own code gave for a tiny model (tests/golden), each network and the whole chain."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from svd import load_pipeline
from svd.autoencoder.decoder import Decoder
from svd.conditioning.conditioner import unconditional
from svd.conditioning.conditioning import Conditioning
from svd.config import load_config
from svd.layers.basic import Linear
from svd.pipelines.image_to_video import ImageToVideo
from svd.resources import own_file
from svd_tools.checkpoints.converter import convert
from svd_tools.device_checks.outcome import AMP_LEVELS, CHAIN, NETWORK, Outcome, Settings, limit_16_bits, relative_error

FOLDER = own_file("tests/golden")
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """A result and its reference."""

    compute: Callable[[ImageToVideo, Values], list[tuple]]
    """(result, reference) of each part of the result."""
    networks: tuple[str, ...]
    """Those that take part in it, as attributes of the pipeline."""
    chain: bool = False
    quick: bool = True
    """Whether a quick check in 16 bits has it too, which CPUs are slow at."""


def values() -> dict[str, np.ndarray]:
    """Inputs and outputs of Stability's code."""
    with np.load(FOLDER / "values.npz") as arrays:
        return dict(arrays)


def given_conditioning(golden: Values) -> Conditioning:
    """The reference's record for one clip of three frames."""
    concat = np.repeat(golden["cond_concat"][:, None], 3, axis=1)
    return Conditioning(*map(Tensor, (golden["cond_crossattn"], concat, golden["cond_vector"][:1])))


def _image_encoder(pipe: ImageToVideo, golden: Values) -> list[tuple]:
    return [(pipe.conditioner.image_encoder(Tensor(golden["clip_input"])), golden["clip_embedding"])]


def _conditioning(pipe: ImageToVideo, golden: Values) -> list[tuple]:
    """The reference's fps_id 6 is our fps 7."""
    fps, motion, strength = (float(golden[key]) for key in ("fps_id", "motion_bucket_id", "cond_aug"))
    result = pipe.conditioner(golden["image"], 3, fps + 1, motion, strength, golden["aug_noise"])
    return [
        (result.context, golden["cond_crossattn"]),
        (result.concat, np.repeat(golden["cond_concat"][:, None], 3, axis=1)),
        (np.repeat(result.vector.asnumpy(), 3, axis=0), golden["cond_vector"]),
    ]


def _encoder(pipe: ImageToVideo, golden: Values) -> list[tuple]:
    return [(pipe.conditioner.encode_image(golden["frames"]), golden["frames_mode"])]


def _unet(pipe: ImageToVideo, golden: Values) -> list[tuple]:
    """Each frame has a noise level of its own here."""
    cond = given_conditioning(golden)
    x, c_noise = Tensor(golden["unet_x"][None]), Tensor(golden["unet_c_noise"][None])
    return [(pipe.denoiser.network(x, c_noise, *cond.inputs)[0], golden["unet_out"])]


def _denoiser(pipe: ImageToVideo, golden: Values) -> list[tuple]:
    """As two equal clips in a batch: guidance runs the same graph."""
    x, expected = (np.stack([golden[key]] * 2) for key in ("denoiser_x", "denoiser_out"))
    cond = given_conditioning(golden)
    return [(pipe.denoiser(x, float(golden["denoiser_sigma"]), cond.stack(cond)), expected)]


def _sampler(pipe: ImageToVideo, golden: Values) -> list[tuple]:
    """From the reference's conditioning, so that it is the sampler that is tested."""
    noise, settings = golden["sampler_noise"][None], pipe.settings()
    cond = given_conditioning(golden)
    result = pipe.sample((cond, unconditional(cond)), noise, settings, None, progress=False)
    return [(result[0], golden["sampler_latents"])]


def _decoder(pipe: ImageToVideo, golden: Values) -> list[tuple]:
    """The decoder itself does not know of the latents' scale."""
    return [(pipe.autoencoder.decoder(Tensor(golden["decoder_z"][None]))[0], golden["decoder_out"])]


def _video(pipe: ImageToVideo, golden: Values) -> list[tuple]:
    settings = pipe.settings(decode_chunk_size=3)
    result = pipe.decode(golden["sampler_latents"][None], settings, progress=False)
    return [(result[0].transpose(0, 3, 1, 2), golden["video"])]


def _whole(pipe: ImageToVideo, golden: Values) -> list[tuple]:
    """From the image and the reference's noise to the video, with nothing but the pipeline's call."""
    noise = {"noise": golden["sampler_noise"][None], "aug_noise": golden["aug_noise"]}
    image = (golden["image"][0].transpose(1, 2, 0) + 1) / 2
    video = pipe(image, **noise, output="float", progress=False)
    return [(video.transpose(0, 3, 1, 2), golden["video"])]


IMAGE_ENCODER, ENCODER = "conditioner.image_encoder", "conditioner.encoder"
UNET, DECODER = "denoiser.network", "autoencoder.decoder"
COMPARISONS = {
    "image encoder": Comparison(_image_encoder, (IMAGE_ENCODER,)),
    "encoder": Comparison(_encoder, (ENCODER,)),
    "conditioning": Comparison(_conditioning, (IMAGE_ENCODER, ENCODER)),
    "UNet": Comparison(_unet, (UNET,)),
    "denoiser, two clips": Comparison(_denoiser, (UNET,), quick=False),
    "sampling, 4 steps with guidance": Comparison(_sampler, (UNET,), chain=True, quick=False),
    "temporal decoder": Comparison(_decoder, (DECODER,)),
    "video of the reference's latents": Comparison(_video, (DECODER,), chain=True, quick=False),
    "whole pipeline": Comparison(_whole, (IMAGE_ENCODER, ENCODER, UNET, DECODER), chain=True, quick=False),
}


def limit(networks: list[nn.Cell], chain: bool = False) -> float:
    """How far off the result of these networks may be, by the type that they compute in."""
    cells = [cell for network in networks for _, cell in network.cells_and_names()]
    dtypes = [str(cell.weight.dtype).lower() for cell in cells if isinstance(cell, (nn.Conv2d, Linear))]
    low = [dtype for dtype in dtypes if dtype != "float32"]
    if not low:
        return CHAIN if chain else NETWORK
    return limit_16_bits(low[0], len(low), chain)


def compare(pipe: ImageToVideo, golden: Values, comparison: Comparison) -> Outcome:
    """The largest difference of a comparison, and its limit."""
    difference = max(relative_error(*pair) for pair in comparison.compute(pipe, golden))
    networks = [attrgetter(path)(pipe) for path in comparison.networks]
    return Outcome(difference, limit(networks, comparison.chain))


@contextlib.contextmanager
def converted() -> Iterator[Path]:
    """The golden model in this project's layout: a file that is there for a while (what has mapped it keeps it)."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(sys.stderr):
            path = convert(FOLDER / "weights.safetensors", FOLDER / "config.yaml", folder)
        yield path


def checks(settings: Settings) -> dict[str, Callable[[], Outcome]]:
    """Of one precision: a comparison each, and Stable Diffusion's decoder, which the published files have too."""
    config, golden = load_config(FOLDER / "config.yaml"), values()
    options = settings.device, settings.mode, AMP_LEVELS[settings.variant]
    with converted() as checkpoint:
        pipe = load_pipeline(config, checkpoint, *options)
        frame_wise = replace(config, autoencoder=replace(config.autoencoder, decoder="image"))
        decoder: Decoder = load_pipeline(frame_wise, checkpoint, *options).autoencoder.decoder

        def image_decoder() -> Outcome:
            difference = relative_error(decoder(Tensor(golden["decoder_z"])), golden["image_decoder_out"])
            return Outcome(difference, limit([decoder]))

    few = settings.quick and settings.variant != "float32"
    chosen = {name: comparison for name, comparison in COMPARISONS.items() if comparison.quick or not few}
    found = {name: partial(compare, pipe, golden, comparison) for name, comparison in chosen.items()}
    return {**found, "image decoder": image_decoder}
