"""Every value that Stability's own code gave for a tiny model, through conversion of the published layout.

A single network may be off by 2e-5 of the reference's largest absolute value, the whole chain by 2e-4. The
comparisons are those of svd_tools/check_device.py, which does them on a user's device.
"""

import pytest
from comparison import CHAIN, NETWORK, assert_close
from device import AMP_LEVEL, DEVICE
from safetensors.numpy import load_file, save_file

from svd import load_pipeline
from svd.conditioning.clip_preprocess import clip_preprocess
from svd.diffusion.schedules import karras
from svd_tools.convert import convert
from svd_tools.device_checks.golden import COMPARISONS, compare


@pytest.mark.parametrize("name", COMPARISONS)
def test_network_or_chain(golden_pipe, golden, name):
    comparison = COMPARISONS[name]
    outcome = compare(golden_pipe, golden, comparison)
    assert outcome.limit == (CHAIN if comparison.chain else NETWORK)
    assert outcome.difference <= outcome.limit


def test_clip_input(golden):
    assert_close(clip_preprocess(golden["image"]), golden["clip_input"])


def test_large_clip_input(golden):
    """Larger than CLIP's input, so it is blurred first; stored as 0..255."""
    assert_close(clip_preprocess(golden["large_image"] / 127.5 - 1), golden["large_clip_input"])


def test_sampler_sigmas(golden):
    assert_close(karras(4), golden["sampler_sigmas"])


def test_image_decoder_file(mode, golden, golden_source, golden_config, tmp_path):
    """svd_image_decoder files have Stable Diffusion's whole autoencoder as the first stage."""
    first_stage, conditioner = "first_stage_model.", "conditioner.embedders.3.encoder."
    tensors = {k: v for k, v in load_file(golden_source).items() if not k.startswith(first_stage)}
    copies = {k.replace(conditioner, first_stage): v for k, v in tensors.items() if k.startswith(conditioner)}
    save_file(tensors | copies, tmp_path / "image_decoder.safetensors")
    config = tmp_path / "image_decoder.yaml"
    config.write_text(f"base: {golden_config}\nautoencoder: {{decoder: image}}\n")
    checkpoint = convert(tmp_path / "image_decoder.safetensors", config, tmp_path / "converted")
    autoencoder = load_pipeline(config, checkpoint, device_target=DEVICE, mode=mode, amp_level=AMP_LEVEL).autoencoder
    scale = autoencoder.config.scale_factor
    result = autoencoder.decode(golden["decoder_z"][None] * scale, chunk_size=2)
    assert_close(result[0], golden["image_decoder_out"])
    assert_close(autoencoder.encode(golden["frames"][None])[0] / scale, golden["frames_mode"])
