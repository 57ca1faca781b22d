"""Step time of temporal training, against PyTorch with diffusers' network on the same cores.

    python scripts/bench_train.py                  # `small`, a few minutes
    python scripts/bench_train.py --size medium    # 60 M parameters

Both sides have the same weights, the same inputs and the same trained parameters, and run forward, backward, clipping
and AdamW in float32, without encoders. Each is a process of its own; they take their steps in turns, and the one that
waits sleeps. Prints a Markdown table, and with --profile which operators this project's time goes into. PyTorch and
diffusers have to be installed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import bench_models as models
from bench_models import LEARNING_RATE, Size
from interleaved import Built, Call

TEMPORAL = ("temporal_", "time_pos_embed", "time_mixer")
"""What diffusers' names of temporal layers and blends have in them."""


def main() -> None:
    parser = models.command_line(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "small", "medium"), default="small", help="of network and clips")
    parser.add_argument("--recompute", action="store_true", help="on both sides, keep fewer activations")
    options = parser.parse_args()
    sides, size, networks = (mindspore_side, pytorch_side), models.SIZES[options.size], ("network.",)
    models.compare(sides, size.settings, networks, (size, options.recompute), options, "step", str(size))


def mindspore_side(folder: Path, size: Size, recompute: bool) -> tuple[Built, Call]:
    from svd.conditioning.conditioning import embed_numbers
    from svd.config import UNetConfig
    from svd.diffusion.denoiser import Denoise
    from svd.diffusion.loss import DenoisingLoss, loss_coefficients
    from svd.diffusion.preconditioning import v_scaling
    from svd.layers.marks import temporal_parameters
    from svd.layers.recompute import recompute_blocks
    from svd.networks.blocks.svd import svd_unet
    from svd.training.config import OptimizerConfig
    from svd.training.optimizer import AdamW
    from svd.training.step import TrainStep
    from svd.training.tasks.video import freeze_others

    # isort: split
    from mindspore import Tensor

    networks = {"network": lambda: svd_unet(UNetConfig(**size.unet))}
    (network,), built = models.load_networks(networks, folder, temporal_parameters)
    if recompute:
        recompute_blocks(network)
    trained = temporal_parameters(network)
    freeze_others(network, {parameter.name: parameter for parameter in trained})
    optimizer = AdamW(trained, OptimizerConfig(learning_rate=LEARNING_RATE))
    train_step = TrainStep(DenoisingLoss(Denoise(network)), optimizer, trained, average=None)

    x = size.random_inputs()
    vector = embed_numbers(size.unet["vector_dim"] // 3, len(x["sigma"]), *x["numbers"].T)
    coefficients = loss_coefficients(v_scaling(), x["sigma"])
    tensors = {name: Tensor(value) for name, value in x.items()}
    inputs = (tensors["latents"], tensors["noise"], coefficients, tensors["context"], tensors["concat"], vector)
    built = replace(built, trained=sum(parameter.size for parameter in trained))
    return built, models.training_call(train_step, optimizer, lambda: inputs)


def pytorch_side(folder: Path, size: Size, recompute: bool) -> tuple[Built, Call]:
    import torch
    from diffusers import UNetSpatioTemporalConditionModel

    unet, built = models.load_pretrained(UNetSpatioTemporalConditionModel, folder / models.DIFFUSERS / "unet")
    unet.train().requires_grad_(False)
    if recompute:
        unet.enable_gradient_checkpointing()
    named = unet.named_parameters()
    trained = [p.requires_grad_() for name, p in named if any(part in name for part in TEMPORAL)]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE)

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

    return replace(built, trained=sum(p.numel() for p in trained)), step


if __name__ == "__main__":
    main()
