"""Step time of temporal training, against PyTorch with diffusers' network on the same cores.

    python scripts/bench_train.py                  # `small`, a few minutes
    python scripts/bench_train.py --size medium    # 60 M parameters
    python scripts/bench_train.py --size animatediff  # or modelscope: temporal layers over Stable Diffusion's, 142 M

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

TEMPORAL = ("temporal_", "time_pos_embed", "time_mixer", "motion_modules", "temp_", "transformer_in")
"""What diffusers' names of temporal layers and blends have in them."""


def main() -> None:
    parser = models.command_line(__doc__.splitlines()[0])
    sizes = [name for name, size in models.SIZES.items() if size.temporal or not size.text]
    parser.add_argument("--size", choices=sizes, default="small", help="of network and clips")
    parser.add_argument("--recompute", action="store_true", help="on both sides, keep fewer activations")
    options = parser.parse_args()
    sides, size, networks = (mindspore_side, pytorch_side), models.SIZES[options.size], ("network.",)
    models.compare(sides, size.settings, networks, (size, options.recompute), options, "step", str(size))


def mindspore_side(folder: Path, size: Size, recompute: bool) -> tuple[Built, Call]:
    from svd.build import build_networks
    from svd.conditioning.conditioning import embed_numbers
    from svd.diffusion.denoiser import Denoise
    from svd.diffusion.loss import DenoisingLoss, loss_coefficients
    from svd.diffusion.preconditioning import v_scaling, vp_eps
    from svd.layers.marks import temporal_parameters
    from svd.layers.recompute import recompute_blocks
    from svd.training.config import OptimizerConfig
    from svd.training.optimizer import AdamW
    from svd.training.step import TrainStep
    from svd.training.tasks.video import freeze_others

    # isort: split
    from mindspore import Tensor

    config = models.model_config(size.settings)
    networks = {"network": lambda: build_networks(config)["network"]}
    (network,), built = models.load_networks(networks, folder, temporal_parameters)
    if recompute:
        recompute_blocks(network)
    trained = temporal_parameters(network)
    freeze_others(network, {parameter.name: parameter for parameter in trained})
    optimizer = AdamW(trained, OptimizerConfig(learning_rate=LEARNING_RATE))
    train_step = TrainStep(DenoisingLoss(Denoise(network)), optimizer, trained, average=None)

    x = size.random_inputs()
    latents, noise, context = (Tensor(x[name]) for name in ("latents", "noise", "context"))
    coefficients = loss_coefficients((vp_eps if size.text else v_scaling)(), x["sigma"])
    inputs = latents, noise, coefficients, context
    if size.text:
        inputs += None, None
    else:
        vector = embed_numbers(size.unet["vector_dim"] // 3, len(x["sigma"]), *x["numbers"].T)
        inputs += Tensor(x["concat"]), vector
    built = replace(built, trained=sum(parameter.size for parameter in trained))
    return built, models.training_call(train_step, optimizer, lambda: inputs)


def pytorch_side(folder: Path, size: Size, recompute: bool) -> tuple[Built, Call]:
    import torch

    unet, built, evaluate = models.load_diffusers_unet(size, folder)
    unet.train().requires_grad_(False)
    for module in unet.modules():
        if isinstance(module, torch.nn.Dropout):  # ModelScope's, which this project leaves out
            module.p = 0.0
    if recompute:
        unet.enable_gradient_checkpointing()
    named = unet.named_parameters()
    trained = [p.requires_grad_() for name, p in named if any(part in name for part in TEMPORAL)]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE)

    x = {name: torch.from_numpy(array) for name, array in size.random_inputs().items()}
    _, c_noise, context, *numbers = map(torch.from_numpy, size.network_inputs)
    sigma = x["sigma"].view(-1, 1, 1, 1, 1)

    def step() -> float:
        noisy, norm = x["latents"] + sigma * x["noise"], (1 + sigma**2).sqrt()
        if size.text:
            loss = ((evaluate(noisy / norm, c_noise, context) - x["noise"]) ** 2).mean()
        else:
            output = evaluate(torch.cat([noisy / norm, x["concat"]], 2), c_noise, context, *numbers)
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
