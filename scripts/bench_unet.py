"""Time and memory of the UNet, against PyTorch (diffusers) on the same cores.

    python scripts/bench_unet.py                          # 60 M parameters, 2 clips of 8 frames at 32 x 32 latents
    python scripts/bench_unet.py --size full --repeats 3  # all 1,525 M, 2 clips of 2 frames at 16 x 16: 24 GB

Both sides load the same weights from files of their own, and evaluate the network for the same inputs in float32,
without gradients. Prints a Markdown table, and with --profile which operators this project's time goes into.
"""

from __future__ import annotations

import time
from pathlib import Path

import interleaved
import numpy as np
from bench_models import SIZES, Size, count, diffusers_folder, load_networks, write_model
from interleaved import Built, Call


def main() -> None:
    parser = interleaved.options(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "medium", "full"), default="medium", help="of network and clips")
    parser.add_argument("--profile", action="store_true", help="print where this project's time goes, by operator")
    options = parser.parse_args()
    size = SIZES[options.size]
    with interleaved.temporary_folder(options.folder) as folder:
        interleaved.in_own_process(write_model, size.settings, ("network.",), folder)
        sides = {"mindspore": mindspore_side, "pytorch": pytorch_side}
        interleaved.compare(sides, (size, folder), options.repeats, "call", str(size), options.profile)


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
    from svd.networks.video_unet import VideoUNet

    start = time.perf_counter()
    (network,) = load_networks({"network": lambda: VideoUNet(UNetConfig(**size.unet))}, folder)
    built = Built(time.perf_counter() - start, count(network.get_parameters()))
    x, c_noise, context, numbers = network_inputs(size)
    vector = Conditioner(None, None, 0, size.unet["vector_dim"]).embed_numbers(len(x), *numbers.T)
    inputs = (Tensor(x), Tensor(c_noise), Tensor(context), vector)
    return built, lambda: network(*inputs).asnumpy()


def pytorch_side(size: Size, folder: Path) -> tuple[Built, Call]:
    import torch
    from diffusers import UNetSpatioTemporalConditionModel

    torch.set_num_threads(interleaved.cores())
    start = time.perf_counter()
    network = UNetSpatioTemporalConditionModel.from_pretrained(diffusers_folder(folder) / "unet")
    built = Built(time.perf_counter() - start, network.num_parameters())
    *inputs, numbers = map(torch.from_numpy, network_inputs(size))

    @torch.inference_mode()
    def call() -> np.ndarray:
        return network(*inputs, added_time_ids=numbers).sample.numpy()

    return built, call


if __name__ == "__main__":
    main()
