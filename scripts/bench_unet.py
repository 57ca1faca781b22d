"""Time and memory of the UNet, against PyTorch (diffusers) on the same cores.

    python scripts/bench_unet.py                          # 60 M parameters, 2 clips of 8 frames at 32 x 32 latents
    python scripts/bench_unet.py --size full --repeats 3  # all 1,525 M, 2 clips of 2 frames at 16 x 16: 24 GB

Both sides load the same weights from files of their own, and evaluate the network for the same inputs in float32,
without gradients. Prints a Markdown table, and with --profile which operators this project's time goes into.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from bench_models import SIZES, Size, command_line, compare, count, diffusers_folder, load_networks, load_pretrained
from interleaved import Built, Call


def main() -> None:
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "medium", "full"), default="medium", help="of network and clips")
    options = parser.parse_args()
    sides, size = {"mindspore": mindspore_side, "pytorch": pytorch_side}, SIZES[options.size]
    compare(sides, size, ("network.",), options, "call", str(size))


def network_inputs(size: Size) -> list[np.ndarray]:
    """x, c_noise, context, and fps, motion bucket and augmentation."""
    x = size.random_inputs()
    return [np.concatenate([x["latents"], x["concat"]], 2), 0.25 * np.log(x["sigma"]), x["context"], x["numbers"]]


def mindspore_side(size: Size, folder: Path) -> tuple[Built, Call]:
    from svd import runtime

    runtime.setup("CPU")
    from mindspore import Tensor

    from svd.conditioning.conditioner import Conditioner
    from svd.config import UNetConfig
    from svd.networks.blocks.svd import svd_unet

    start = time.perf_counter()
    (network,) = load_networks({"network": lambda: svd_unet(UNetConfig(**size.unet))}, folder)
    built = Built(time.perf_counter() - start, count(network.get_parameters()))
    x, c_noise, context, numbers = network_inputs(size)
    vector = Conditioner(None, None, 0, size.unet["vector_dim"]).embed_numbers(len(x), *numbers.T)
    inputs = (Tensor(x), Tensor(c_noise), Tensor(context), vector)
    return built, lambda: network(*inputs).asnumpy()


def pytorch_side(size: Size, folder: Path) -> tuple[Built, Call]:
    import torch
    from diffusers import UNetSpatioTemporalConditionModel

    network, built = load_pretrained(UNetSpatioTemporalConditionModel, diffusers_folder(folder) / "unet")
    *inputs, numbers = map(torch.from_numpy, network_inputs(size))
    return built, torch.inference_mode()(lambda: network(*inputs, added_time_ids=numbers).sample.numpy())


if __name__ == "__main__":
    main()
