"""Time of a training step and of a sampling step in pixel space, against the same network in PyTorch on the same cores.

    python scripts/bench_pixels.py                    # the small recipe: 8 clips of 16 frames of 32 x 32
    python scripts/bench_pixels.py --size published   # Moving MNIST's published size: 35 M parameters
    python scripts/bench_pixels.py --what sampling    # or training; both if not given

Both sides are the factorised space-time UNet of Video Diffusion Models, PyTorch's in scripts/torch_pixel_unet.py, with
the same weights and inputs in float32. A training step is forward, backward, clipping and AdamW of all layers; a
sampling step is an evaluation of the network, clipping, and a step of the ancestral sampler. Prints Markdown tables,
and with --profile which operators this project's time goes into.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import bench_models as models
import interleaved
import numpy as np
from bench_models import LEARNING_RATE
from interleaved import Built, Call

WEIGHTS = "weights.safetensors"
SIGMA, SIGMA_NEXT, GAMMA = 1.2, 0.9, 0.1
"""Of the sampling step."""


@dataclass(frozen=True)
class Size:
    """A network, and the shape of its clips, [b t c h w]."""

    unet: dict
    clips: tuple[int, int, int, int, int]
    distance: int = 15

    def random_inputs(self) -> dict[str, np.ndarray]:
        """Clips, noise, more noise, and noise levels: float32, the same in every process."""
        generator = np.random.default_rng(0)
        x = {name: generator.standard_normal(self.clips) for name in ("clips", "noise", "fresh")}
        x["sigma"] = np.tan(np.pi / 2 * generator.uniform(0.05, 0.95, self.clips[0]))
        return {name: value.astype(np.float32) for name, value in x.items()}

    def __str__(self) -> str:
        return "clips {} x {} x {} x {} x {}".format(*self.clips)


COMMON = {"channels": 1, "embedding_networks": None, "context_dim": None}
SIZES = {
    "tiny": Size(
        {"model_channels": 32, "channel_mult": [1], "num_res_blocks": 1, "attention_resolutions": []}
        | {"num_head_channels": 32} | COMMON, (2, 3, 1, 8, 8)
    ),
    "small": Size(
        {"model_channels": 32, "channel_mult": [1, 2, 2], "num_res_blocks": 1, "attention_resolutions": [4]}
        | {"num_head_channels": 32} | COMMON, (8, 16, 1, 32, 32)
    ),
    "published": Size(
        {"model_channels": 128, "channel_mult": [1, 2, 2, 2], "num_res_blocks": 2, "attention_resolutions": [2, 4]}
        | {"num_head_channels": 64} | COMMON | {"embedding_networks": 2}, (8, 16, 1, 32, 32)
    ),
}  # fmt: skip


def main() -> None:
    parser = models.command_line(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="small", help="of network and clips")
    parser.add_argument("--what", nargs="+", choices=("training", "sampling"), default=["training", "sampling"])
    options = parser.parse_args()
    size = SIZES[options.size]
    for what in options.what:
        sides = (mindspore_training, pytorch_training) if what == "training" else (mindspore_sampling, pytorch_sampling)
        with interleaved.temporary_folder(options.folder) as folder:
            interleaved.in_own_process(write_weights, size, folder)
            arguments = (folder, size)
            interleaved.compare(sides, arguments, options.repeats, f"{what} step", str(size), options.profile)


def write_weights(size: Size, folder: Path) -> None:
    """Random weights by this project's names, which both sides have."""
    from mindspore.nn.utils import no_init_parameters
    from safetensors.numpy import save_file

    with no_init_parameters():
        shapes = {parameter.name: tuple(parameter.shape) for parameter in build_network(size).get_parameters()}
    tensors = {name: models.random_tensor(name, shape).read() for name, shape in shapes.items()}
    save_file(tensors, folder / WEIGHTS)


def build_network(size: Size):
    from svd.config.pixel_networks import FactorisedAttention, PixelTemporalConfig, PixelUNetConfig
    from svd.networks.pixel_unet import PixelUNet

    return PixelUNet(PixelUNetConfig(**size.unet), PixelTemporalConfig(FactorisedAttention(distance=size.distance)))


def mindspore_network(folder: Path, size: Size, trained: bool):
    """The network with its weights, and what was built."""
    from svd import runtime

    runtime.setup("CPU")
    import mindspore as ms
    from safetensors.numpy import load_file

    from svd.placement import place

    start = time.perf_counter()
    network = build_network(size).set_train(False)
    parameters = list(network.get_parameters())
    place(network, "CPU", ms.float32, parameters if trained else ())
    weights = load_file(folder / WEIGHTS)
    for parameter in parameters:
        parameter.set_data(ms.Tensor(weights[parameter.name]))
    count = sum(parameter.size for parameter in parameters)
    return network, Built(time.perf_counter() - start, count, count if trained else 0)


def mindspore_training(folder: Path, size: Size) -> tuple[Built, Call]:
    network, built = mindspore_network(folder, size, trained=True)
    from mindspore import Tensor

    from svd.diffusion.ancestral import log_snr_v
    from svd.diffusion.denoiser import Denoise
    from svd.diffusion.loss import DenoisingLoss, loss_coefficients
    from svd.training.config import OptimizerConfig
    from svd.training.optimizer import AdamW
    from svd.training.step import TrainStep
    from svd.training.tasks.pixels import PixelLoss

    trained = list(network.get_parameters())
    optimizer = AdamW(trained, OptimizerConfig(learning_rate=LEARNING_RATE))
    step = TrainStep(PixelLoss(DenoisingLoss(Denoise(network))), optimizer, trained, average=None)
    x = size.random_inputs()
    inputs = Tensor(x["clips"]), Tensor(x["noise"]), loss_coefficients(log_snr_v(), x["sigma"])
    return built, models.training_call(step, optimizer, lambda: inputs)


def mindspore_sampling(folder: Path, size: Size) -> tuple[Built, Call]:
    network, built = mindspore_network(folder, size, trained=False)
    from mindspore import Tensor

    from svd.conditioning.conditioning import Conditioning
    from svd.diffusion.ancestral import ancestral, clipped, log_snr_v
    from svd.diffusion.denoiser import Denoiser
    from svd.networks.split import Split

    x = size.random_inputs()
    noisy, fresh = Tensor(x["clips"] + np.float32(SIGMA) * x["noise"]), Tensor(x["fresh"])
    denoise = clipped(Denoiser(network, log_snr_v(), Split(network)).bind(Conditioning(None)))
    levels = [SIGMA, SIGMA_NEXT]
    return built, lambda: ancestral(denoise, noisy, levels, noise=lambda shape: fresh, gamma=GAMMA).asnumpy()


def pytorch_network(folder: Path, size: Size):
    import torch
    from safetensors.torch import load_file
    from torch_pixel_unet import TorchPixelUNet

    torch.set_num_threads(interleaved.cores())
    start = time.perf_counter()
    network = TorchPixelUNet(SimpleNamespace(**size.unet), size.distance)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return network, Built(time.perf_counter() - start, sum(p.numel() for p in network.parameters()))


def pytorch_training(folder: Path, size: Size) -> tuple[Built, Call]:
    import torch

    network, built = pytorch_network(folder, size)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    x = {name: torch.from_numpy(array) for name, array in size.random_inputs().items()}
    sigma = x["sigma"].view(-1, 1, 1, 1, 1)
    alpha = 1 / (1 + sigma**2).sqrt()
    noisy, target = alpha * (x["clips"] + sigma * x["noise"]), alpha * (x["noise"] - sigma * x["clips"])
    c_noise = 2000 / math.pi * torch.arctan(x["sigma"])

    def step() -> float:
        loss = (network(noisy, c_noise) - target).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return Built(built.seconds, built.parameters, built.parameters), step


def pytorch_sampling(folder: Path, size: Size) -> tuple[Built, Call]:
    import torch

    network, built = pytorch_network(folder, size)
    x = {name: torch.from_numpy(array) for name, array in size.random_inputs().items()}
    noisy = x["clips"] + SIGMA * x["noise"]
    c_noise = torch.full(size.clips[:1], 2000 / math.pi * math.atan(SIGMA))
    alpha, r = 1 / math.sqrt(1 + SIGMA**2), (SIGMA_NEXT / SIGMA) ** 2
    upper = SIGMA * math.sqrt((1 + SIGMA_NEXT**2) / (1 + SIGMA**2))
    deviation = math.sqrt(1 - r) * SIGMA_NEXT ** (1 - GAMMA) * upper**GAMMA

    @torch.inference_mode()
    def step() -> np.ndarray:
        x0 = (alpha**2 * noisy - alpha * SIGMA * network(alpha * noisy, c_noise)).clamp(-1, 1)
        return (x0 + (noisy - x0) * r + x["fresh"] * deviation).numpy()

    return built, step


if __name__ == "__main__":
    main()
