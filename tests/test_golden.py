"""Every value that Stability's own code gave for a tiny model, through conversion of the published layout.

A single network may be off by 2e-5 of the reference's largest absolute value, the whole chain by 2e-4.
"""

from dataclasses import replace

import numpy as np
import pytest
from comparison import CHAIN, assert_close
from mindspore import Tensor
from safetensors.numpy import load_file, save_file

from svd import load_pipeline
from svd.autoencoder.decoder import Decoder
from svd.checkpoint import load_parameters
from svd.conditioning.clip_preprocess import clip_preprocess
from svd.conditioning.conditioner import Conditioning
from svd.diffusion.schedules import karras
from svd_tools.convert import convert


@pytest.fixture
def conditioning(golden) -> Conditioning:
    """The reference's record for one clip of three frames."""
    concat = np.repeat(golden["cond_concat"][:, None], 3, axis=1)
    return Conditioning(*map(Tensor, (golden["cond_crossattn"], concat, golden["cond_vector"][:1])))


@pytest.fixture
def image(golden) -> np.ndarray:
    """[h w 3] in [0, 1], as a user has it."""
    return (golden["image"][0].transpose(1, 2, 0) + 1) / 2


# --- conditioning ---


def test_clip_input(golden):
    assert_close(clip_preprocess(golden["image"]), golden["clip_input"])


def test_large_clip_input(golden):
    """Larger than CLIP's input, so it is blurred first; stored as 0..255."""
    assert_close(clip_preprocess(golden["large_image"] / 127.5 - 1), golden["large_clip_input"])


def test_clip_embedding(golden_pipe, golden):
    embedding = golden_pipe.conditioner.image_encoder(Tensor(golden["clip_input"]))
    assert_close(embedding, golden["clip_embedding"])


def test_conditioning(golden_pipe, golden):
    """cond_crossattn, cond_concat and cond_vector; the reference's fps_id 6 is our fps 7."""
    fps, motion, strength = (float(golden[key]) for key in ("fps_id", "motion_bucket_id", "cond_aug"))
    result = golden_pipe.conditioner(golden["image"], 3, fps + 1, motion, strength, golden["aug_noise"])
    assert_close(result.context, golden["cond_crossattn"])
    assert_close(result.concat, np.repeat(golden["cond_concat"][:, None], 3, axis=1))
    assert_close(np.repeat(result.vector.asnumpy(), 3, axis=0), golden["cond_vector"])


def test_frames_mode(golden_pipe, golden):
    assert_close(golden_pipe.conditioner.encode_image(golden["frames"]), golden["frames_mode"])


# --- diffusion ---


def test_unet_out(golden_pipe, golden, conditioning):
    """Each frame has a noise level of its own here."""
    x, c_noise = Tensor(golden["unet_x"][None]), Tensor(golden["unet_c_noise"][None])
    result = golden_pipe.denoiser.network(x, c_noise, conditioning.context, conditioning.vector)
    assert_close(result[0], golden["unet_out"])


def test_denoiser_out(golden_pipe, golden, conditioning):
    """As two equal clips in a batch: guidance runs the same graph."""
    x, expected = (np.stack([golden[key]] * 2) for key in ("denoiser_x", "denoiser_out"))
    sigma = float(golden["denoiser_sigma"])
    assert_close(golden_pipe.denoiser(x, sigma, conditioning.stack(conditioning)), expected)


def test_sampler_sigmas(golden):
    assert_close(karras(4), golden["sampler_sigmas"])


def test_sampler_latents(golden_pipe, golden, conditioning):
    """From the reference's conditioning, so that it is the sampler that is tested."""
    settings = golden_pipe.settings()
    result = golden_pipe.sample(conditioning, golden["sampler_noise"][None], settings, None, progress=False)
    assert_close(result[0], golden["sampler_latents"], CHAIN)


# --- decoding ---


def test_decoder_out(golden_pipe, golden):
    """The decoder itself does not know of the latents' scale."""
    assert_close(golden_pipe.autoencoder.decoder(Tensor(golden["decoder_z"][None]))[0], golden["decoder_out"])


def test_image_decoder_out(golden_pipe, golden, golden_checkpoint):
    """The frame-wise decoder that the published file has beside the temporal one."""
    decoder = Decoder(replace(golden_pipe.config.autoencoder, decoder="image")).set_train(False)
    load_parameters({"conditioner.autoencoder.decoder": decoder}, golden_checkpoint)
    assert_close(decoder(Tensor(golden["decoder_z"])), golden["image_decoder_out"])


def test_video_of_the_reference_latents(golden_pipe, golden):
    settings = golden_pipe.settings(decode_chunk_size=3)
    result = golden_pipe.decode(golden["sampler_latents"][None], settings, progress=False)
    assert_close(result[0].transpose(0, 3, 1, 2), golden["video"], CHAIN)


# --- the files and calls of a user ---


def test_image_decoder_file(mode, golden, golden_source, golden_config, tmp_path):
    """svd_image_decoder files have Stable Diffusion's whole autoencoder as the first stage."""
    first_stage, conditioner = "first_stage_model.", "conditioner.embedders.3.encoder."
    tensors = {k: v for k, v in load_file(golden_source).items() if not k.startswith(first_stage)}
    copies = {k.replace(conditioner, first_stage): v for k, v in tensors.items() if k.startswith(conditioner)}
    save_file(tensors | copies, tmp_path / "image_decoder.safetensors")
    config = tmp_path / "image_decoder.yaml"
    config.write_text(f"base: {golden_config}\nautoencoder: {{decoder: image}}\n")
    checkpoint = convert(tmp_path / "image_decoder.safetensors", config, tmp_path / "converted")
    autoencoder = load_pipeline(config, checkpoint, device_target="CPU", mode=mode).autoencoder
    scale = autoencoder.config.scale_factor
    result = autoencoder.decode(golden["decoder_z"][None] * scale, chunk_size=2)
    assert_close(result[0], golden["image_decoder_out"])
    assert_close(autoencoder.encode(golden["frames"][None])[0] / scale, golden["frames_mode"])


def test_whole_pipeline(golden_pipe, golden, image):
    """From the image and the reference's noise to the video, with nothing but the pipeline's call."""
    noise = {"noise": golden["sampler_noise"][None], "aug_noise": golden["aug_noise"]}
    video = golden_pipe(image, **noise, output="float", progress=False)
    assert_close(video.transpose(0, 3, 1, 2), golden["video"], CHAIN)
