"""Step time of temporal training, against PyTorch with diffusers' network on the same cores.

    python scripts/bench_train.py                  # `small`, a few minutes
    python scripts/bench_train.py --size medium    # 60 M parameters

Both sides have the same weights, the same inputs and the same trained parameters, and run forward, backward, clipping
and AdamW in float32, without encoders. Each is a process of its own; they take their steps in turns, and the one that
waits sleeps. Prints a Markdown table, and with --profile which operators this project's time goes into. PyTorch and
diffusers have to be installed.
"""

from __future__ import annotations

import time
from pathlib import Path

import interleaved
import numpy as np
from bench_models import SIZES, Size, command_line, compare, count, diffusers_folder, load_networks
from interleaved import Built, Call

LEARNING_RATE = 1e-5
TEMPORAL = ("temporal_", "time_pos_embed", "time_mixer")
"""What diffusers' names of temporal layers and blends have in them."""


def main() -> None:
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "small", "medium"), default="small", help="of network and clips")
    parser.add_argument("--recompute", action="store_true", help="on both sides, keep fewer activations")
    options = parser.parse_args()
    sides, size = {"mindspore": mindspore_side, "pytorch": pytorch_side}, SIZES[options.size]
    compare(sides, size, ("network.",), options, "step", str(size), options.recompute)


def mindspore_side(size: Size, folder: Path, recompute: bool) -> tuple[Built, Call]:
    from svd import runtime

    runtime.setup("CPU")
    from mindspore import Tensor

    from svd.conditioning.conditioner import Conditioner
    from svd.config import UNetConfig
    from svd.diffusion.denoiser import Denoise
    from svd.diffusion.loss import DenoisingLoss, loss_coefficients
    from svd.diffusion.preconditioning import v_scaling
    from svd.layers.marks import temporal_parameters
    from svd.layers.recompute import recompute_blocks
    from svd.networks.blocks.svd import svd_unet
    from svd.training.config import OptimizerConfig
    from svd.training.optimizer import AdamW
    from svd.training.step import TrainStep, host_scalar

    start = time.perf_counter()
    (network,) = load_networks({"network": lambda: svd_unet(UNetConfig(**size.unet))}, folder, temporal_parameters)
    if recompute:
        recompute_blocks(network)
    trained = temporal_parameters(network)
    for parameter in network.get_parameters():
        parameter.requires_grad = False
    for parameter in trained:
        parameter.requires_grad = True
    optimizer = AdamW(trained, OptimizerConfig(learning_rate=LEARNING_RATE))
    train_step = TrainStep(DenoisingLoss(Denoise(network)), optimizer, trained, average=None)
    built = Built(time.perf_counter() - start, count(network.get_parameters()), count(trained))

    x = size.random_inputs()
    vector = Conditioner(None, None, 0, size.unet["vector_dim"]).embed_numbers(len(x["sigma"]), *x["numbers"].T)
    coefficients = loss_coefficients(v_scaling(), x["sigma"])
    tensors = {name: Tensor(value) for name, value in x.items()}
    inputs = (tensors["latents"], tensors["noise"], coefficients, tensors["context"], tensors["concat"], vector)
    updates = 0

    def step() -> float:
        nonlocal updates
        updates += 1
        of_update = Tensor(np.array(optimizer.coefficients(updates, LEARNING_RATE), np.float32))
        loss, _ = train_step(host_scalar(1.0), host_scalar(True), of_update, host_scalar(0.0), *inputs)
        return float(loss.asnumpy())

    return built, step


def pytorch_side(size: Size, folder: Path, recompute: bool) -> tuple[Built, Call]:
    import torch
    from diffusers import UNetSpatioTemporalConditionModel

    torch.set_num_threads(interleaved.cores())
    start = time.perf_counter()
    unet = UNetSpatioTemporalConditionModel.from_pretrained(diffusers_folder(folder) / "unet").train()
    if recompute:
        unet.enable_gradient_checkpointing()
    unet.requires_grad_(False)
    named = unet.named_parameters()
    trained = [p.requires_grad_() for name, p in named if any(part in name for part in TEMPORAL)]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE)
    built = Built(time.perf_counter() - start, unet.num_parameters(), sum(p.numel() for p in trained))

    x = {name: torch.from_numpy(array) for name, array in size.random_inputs().items()}
    sigma = x["sigma"].view(-1, 1, 1, 1, 1)

    def step() -> float:
        noisy, norm = x["latents"] + sigma * x["noise"], (1 + sigma**2).sqrt()
        x_in = torch.cat([noisy / norm, x["concat"]], 2)
        output = unet(x_in, 0.25 * x["sigma"].log(), x["context"], added_time_ids=x["numbers"]).sample
        denoised = noisy / norm**2 - output * sigma / norm
        loss = ((1 + sigma**2) / sigma**2 * (denoised - x["latents"]) ** 2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return built, step


if __name__ == "__main__":
    main()
