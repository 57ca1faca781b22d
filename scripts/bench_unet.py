"""Time and memory of the UNet, against PyTorch (diffusers) on the same cores.

    python scripts/bench_unet.py                          # 60 M parameters, 2 clips of 8 frames at 32 x 32 latents
    python scripts/bench_unet.py --size full --repeats 3  # all 1,525 M, 2 clips of 2 frames at 16 x 16: 24 GB
    python scripts/bench_unet.py --size image             # Stable Diffusion's, 142 M, 2 images at 32 x 32
    python scripts/bench_unet.py --size animatediff       # that with motion modules, 2 clips of 8 frames at 16 x 16
    python scripts/bench_unet.py --size modelscope        # that with ModelScope's temporal layers, the same clips

Both sides load the same weights from files of their own, and evaluate the network for the same inputs in float32,
without gradients. Prints a Markdown table, and with --profile which operators this project's time goes into.
"""

from __future__ import annotations

from pathlib import Path

import bench_models as models
from bench_models import Size
from interleaved import Built, Call


def main() -> None:
    parser = models.command_line(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=tuple(models.SIZES), default="medium", help="of network and clips")
    options = parser.parse_args()
    size = models.SIZES[options.size]
    models.compare((mindspore_side, pytorch_side), size.settings, ("network.",), (size,), options, "call", str(size))


def mindspore_side(folder: Path, size: Size) -> tuple[Built, Call]:
    from svd.build import build_networks
    from svd.conditioning.conditioning import embed_numbers

    config = models.model_config(size.settings)
    (network,), built = models.load_networks({"network": lambda: build_networks(config)["network"]}, folder)
    x, c_noise, context, *others = size.network_inputs
    vectors = [embed_numbers(size.unet["vector_dim"] // 3, len(x), *numbers.T) for numbers in others]
    return built, models.call_of(network, x, c_noise, context, *vectors)


def pytorch_side(folder: Path, size: Size) -> tuple[Built, Call]:
    import torch

    _, built, evaluate = models.load_diffusers_unet(size, folder)
    inputs = list(map(torch.from_numpy, size.network_inputs))
    return built, torch.inference_mode()(lambda: evaluate(*inputs).numpy())


if __name__ == "__main__":
    main()
