"""The losses that svd_tools/check_device.py holds its training steps against are PyTorch's: diffusers' UNet, AdamW."""

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from svd.build import build_networks
from svd.config import ModelConfig, load_config
from svd.layers.marks import temporal_parameters
from svd_tools.checkpoints.layout import expand
from svd_tools.checkpoints.layouts import DIFFUSERS
from svd_tools.checkpoints.tables import TRANSFORMS
from svd_tools.device_checks import training

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")


def golden_unet(config: ModelConfig, checkpoint: Path):
    """diffusers' UNet with the golden weights, of which the temporal ones are to be trained, in float64."""
    from torch_models import torch_unet, with_one_epsilon  # needs torch

    tensors = {name: value for name, value in load_file(checkpoint).items() if name.startswith("network.")}
    entries = expand(DIFFUSERS, config, tensors)
    theirs = {e.theirs.removeprefix("unet."): TRANSFORMS[e.transform].to_theirs(tensors[e.ours]) for e in entries}
    unet = torch_unet(config.unet, config.sampling.num_frames)
    unet.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in theirs.items()})
    unet = with_one_epsilon(unet).double()
    temporal = {f"network.{p.name}" for p in temporal_parameters(build_networks(config)["network"])}
    for entry in entries:
        unet.get_parameter(entry.theirs.removeprefix("unet.")).requires_grad = entry.ours in temporal
    return unet


def loss(unet, golden) -> "torch.Tensor":
    """The denoising loss of one clip at the golden noise level, its formula written out."""
    values = {name: torch.from_numpy(value).double() for name, value in golden.items()}
    latents, noise, sigma = values["frames_mode"][None] * 0.18215, values["sampler_noise"], values["denoiser_sigma"]
    concat = values["cond_concat"][:, None].repeat(1, 3, 1, 1, 1)
    ids = torch.stack([values["fps_id"], values["motion_bucket_id"], values["cond_aug"]])[None]
    x = latents + sigma * noise
    x_in = torch.cat([x / (sigma**2 + 1).sqrt(), concat], 2)
    output = unet(x_in, 0.25 * sigma.log()[None], values["cond_crossattn"], added_time_ids=ids).sample
    denoised = x / (sigma**2 + 1) - sigma / (sigma**2 + 1).sqrt() * output
    return ((sigma**2 + 1) / sigma**2 * (denoised - latents) ** 2).mean()


def reference(config: ModelConfig, checkpoint: Path, golden) -> dict[str, list[float]]:
    """What tests/golden/training.json holds: the loss before each update, and the norm of its gradient."""
    unet = golden_unet(config, checkpoint)
    learned = [p for p in unet.parameters() if p.requires_grad]
    o = training.OPTIMIZER
    optimizer = torch.optim.AdamW(learned, o.learning_rate, o.betas, o.eps, o.weight_decay)
    found = {"loss": [], "gradient_norm": []}
    for _ in range(training.UPDATES):
        optimizer.zero_grad()
        value = loss(unet, golden)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(learned, training.MAX_NORM)
        optimizer.step()
        found["loss"].append(float(value.detach()))
        found["gradient_norm"].append(float(norm))
    return found


def test_stored_losses_and_norms_are_those_of_pytorch(golden, golden_config, golden_checkpoint):
    """Updates of the temporal layers alone, gradients clipped as a whole, in float64."""
    found = reference(load_config(golden_config), golden_checkpoint, golden)
    stored = json.loads(training.reference_file().read_text())
    assert stored.keys() == found.keys()
    for name, numbers in found.items():
        assert stored[name] == pytest.approx(numbers, rel=1e-6)
    assert found["loss"][-1] < found["loss"][0]
