"""Time and memory of the UNet, against PyTorch (diffusers) on the same cores.

    python scripts/bench_unet.py                          # 60 M parameters, 2 clips of 8 frames at 32 x 32 latents
    python scripts/bench_unet.py --size full --repeats 3  # all 1,525 M, 2 clips of 2 frames at 16 x 16: 24 GB
    python scripts/bench_unet.py --size image             # Stable Diffusion's, 142 M, 2 images at 32 x 32

Both sides load the same weights from files of their own, and evaluate the network for the same inputs in float32,
without gradients. Prints a Markdown table, and with --profile which operators this project's time goes into.
"""

from __future__ import annotations

from pathlib import Path

import bench_models as models
import numpy as np
from bench_models import Size
from interleaved import Built, Call


def main() -> None:
    parser = models.command_line(__doc__.splitlines()[0])
    sizes = ("tiny", "medium", "full", "tiny_image", "image")
    parser.add_argument("--size", choices=sizes, default="medium", help="of network and clips")
    options = parser.parse_args()
    size = models.SIZES[options.size]
    models.compare((mindspore_side, pytorch_side), size.settings, ("network.",), (size,), options, "call", str(size))


def network_inputs(size: Size) -> list[np.ndarray]:
    """x, c_noise, context, and fps, motion bucket and augmentation, which image models do not have."""
    x = size.random_inputs()
    if size.kind == "image_ldm":
        return [x["latents"], np.linspace(999, 1, len(x["latents"]), dtype=np.float32), x["context"]]
    return [np.concatenate([x["latents"], x["concat"]], 2), 0.25 * np.log(x["sigma"]), x["context"], x["numbers"]]


def mindspore_side(folder: Path, size: Size) -> tuple[Built, Call]:
    from svd.build import build_networks
    from svd.conditioning.conditioning import embed_numbers

    config = models.model_config(size.settings)
    (network,), built = models.load_networks({"network": lambda: build_networks(config)["network"]}, folder)
    x, c_noise, context, *others = network_inputs(size)
    vectors = [embed_numbers(size.unet["vector_dim"] // 3, len(x), *numbers.T) for numbers in others]
    return built, models.call_of(network, x, c_noise, context, *vectors)


def pytorch_side(folder: Path, size: Size) -> tuple[Built, Call]:
    import torch
    from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel

    images = size.kind == "image_ldm"
    kind = UNet2DConditionModel if images else UNetSpatioTemporalConditionModel
    network, built = models.load_pretrained(kind, folder / models.DIFFUSERS / "unet")
    x, c_noise, context, *numbers = map(torch.from_numpy, network_inputs(size))
    if images:
        return built, torch.inference_mode()(lambda: network(x[:, 0], c_noise, context).sample[:, None].numpy())
    return built, torch.inference_mode()(lambda: network(x, c_noise, context, *numbers).sample.numpy())


if __name__ == "__main__":
    main()
