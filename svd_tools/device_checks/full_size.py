"""The full-size networks with random weights: whether they compile, and their time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from svd import runtime
from svd.build import build_networks
from svd.config import ModelConfig, load_config
from svd.models import model_of
from svd.placement import compute_dtype, place
from svd_tools.device_checks.outcome import NETWORKS, Outcome, Settings, Skipped

SIZES = {
    "network": [(2, 128, 128), (14, 320, 576), (14, 576, 1024), (25, 576, 1024)],
    "conditioner.image_encoder": [(1, 224, 224)],
    "autoencoder.encoder": [(1, 256, 256), (1, 576, 1024)],
    "autoencoder.decoder": [(2, 128, 128), (4, 320, 576), (4, 576, 1024), (14, 576, 1024)],
}
"""Frames, height and width, smaller ones first: a larger one is tried if the one before predicts that it fits."""
CALLS = 3
LONGEST = 60
"""Seconds of a call; on CPU, larger sizes that would take longer are skipped."""
USABLE = 0.8
"""Fraction of the free memory that may be used."""


@dataclass
class Measured:
    """Time per call and peak memory at a size."""

    size: tuple[int, int, int]
    seconds: float
    memory: int


class Network:
    """One network with its weights on the device, in the default compute type of that device."""

    def __init__(self, prefix: str, device: str):
        self.prefix, self.device = prefix, device
        self.config = load_config("configs/svd.yaml")
        self.cell = build_networks(self.config)[prefix].set_train(False)
        (part,) = (part for part in model_of(self.config).parts(self.config) if part.prefix == prefix)
        self.dtype = ms.float32 if part.exact else compute_dtype(device, "auto")
        place(self.cell, device, self.dtype)
        self.bytes = sum(p.size * (2 if p.dtype != ms.float32 else 4) for p in self.cell.get_parameters())
        free = _free_memory(device)
        if 1.25 * self.bytes > USABLE * free:
            raise Skipped(f"its weights take {self.bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
        fill(self.cell)
        # Memory beyond this grows with the size; on a card, weights that are not uploaded yet are counted too.
        self.base = max(runtime.peak_memory(device), self.bytes)
        self.largest: Optional[Measured] = None

    def check(self, size: tuple[int, int, int]) -> Outcome:
        """Compile and call the network at this size."""
        self._check_fits(size)
        inputs = network_inputs(self.prefix, self.config, size)
        times = []
        for _ in range(1 + CALLS):
            start = time.perf_counter()
            result = self.cell(*inputs).asnumpy()
            times.append(time.perf_counter() - start)
        first, again = times[0], statistics.median(times[1:])
        memory = runtime.peak_memory(self.device)
        self.largest = Measured(size, again, memory)
        if not np.isfinite(result).all():
            raise FloatingPointError("its results are not finite")
        return Outcome(note=f"first call {first:.1f} s, then {again:.3g} s", memory=memory)

    def _check_fits(self, size: tuple[int, int, int]) -> None:
        """Raise Skipped if a size would not fit, extrapolating memory beyond the weights from the last size."""
        if self.largest is None:
            return
        ratio = prod(size) / prod(self.largest.size)
        beyond = max(self.largest.memory - self.base, 0)
        more, free = beyond * ratio, _free_memory(self.device)
        if more > USABLE * free:
            raise Skipped(f"would take about {more / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
        if self.device == "CPU" and ratio * self.largest.seconds > LONGEST:
            raise Skipped(f"a call would take about {ratio * self.largest.seconds:.0f} s on this CPU")


def _free_memory(device: str) -> int:
    if device != "CPU":
        (Tensor(np.ones(1, np.float32)) + 1).asnumpy()  # Ascend reports its memory only after first use
    return runtime.free_memory(device)


def fill(cell: nn.Cell) -> None:
    """Set random weights that keep activations near 1, from one repeated block of random numbers."""
    block = np.random.default_rng(0).standard_normal(2**20, np.float32)
    for parameter in cell.get_parameters():
        if parameter.ndim > 1:
            value = np.resize(block, parameter.shape) / np.float32(np.sqrt(prod(parameter.shape[1:])))
        else:
            value = np.full(parameter.shape, "norm" in parameter.name and parameter.name.endswith("weight"), np.float32)
        parameter.set_data(Tensor(value).astype(parameter.dtype))


def network_inputs(prefix: str, config: ModelConfig, size: tuple[int, int, int]) -> tuple[Tensor, ...]:
    """Random inputs for frames of this size; the UNet's are two clips, as with guidance."""
    frames, height, width = size
    scale, channels = config.autoencoder.downsampling, config.autoencoder.latent_channels
    latents = height // scale, width // scale
    shapes = {
        "network": [
            (2, frames, config.unet.in_channels, *latents),
            (2,),
            (2, 1, config.unet.context_dim),
            (2, config.unet.vector_dim),
        ],
        "conditioner.image_encoder": [(1, 3, height, width)],
        "autoencoder.encoder": [(1, 3, height, width)],
        "autoencoder.decoder": [(1, frames, channels, *latents)],
    }[prefix]
    rng = np.random.default_rng(1)
    return tuple(Tensor(rng.standard_normal(shape, np.float32)) for shape in shapes)


def checks(settings: Settings) -> dict[str, Callable[[], Outcome]]:
    """A check per size of one network. After one that has ended its process, larger ones are skipped."""
    if settings.done:
        raise Skipped("larger sizes, after one that failed")
    device = runtime.setup(settings.device, settings.mode)
    network = Network(settings.variant, device)
    sizes = SIZES[settings.variant]
    return {
        f"{NETWORKS[settings.variant]}, {' x '.join(map(str, size))}": partial(network.check, size) for size in sizes
    }
