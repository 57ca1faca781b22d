"""The models of the benchmarks: sizes, and random weights as files of this project and of diffusers."""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
import zlib
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import interleaved
import numpy as np
from interleaved import Build, Built, Call
from jsonargparse import ArgumentParser

Settings = dict[str, dict]
"""What differs from the defaults of svd.config.ModelConfig, or those of another kind, by component."""

NO_VOCABULARY = json.dumps({"vocab": {}, "merges": []})
"""Of text models, in whose benchmarks there are no prompts."""
CHECKPOINT, DIFFUSERS = "model.safetensors", "diffusers"
"""What `write_model` writes: this project's file of a model, and diffusers' folder of the same."""
LEARNING_RATE = 1e-5
PROMPT_TOKENS = 77
TIMESTEPS = (999, 1)
"""Of Stable Diffusion's schedule, at which networks that are given text are evaluated: of the first and last clip."""


@dataclass(frozen=True)
class Size:
    """A UNet and the shape of its latents, [b t c h w]."""

    unet: dict
    latents: tuple[int, int, int, int, int]
    theirs: str = "UNetSpatioTemporalConditionModel"
    """Diffusers' class of the same network."""
    temporal: Optional[dict] = None
    """The temporal layers over Stable Diffusion's; without them it is a model of images, or SVD."""

    @property
    def text(self) -> bool:
        """Whether it is given text."""
        return self.unet["vector_dim"] is None

    @property
    def settings(self) -> Settings:
        """A model with this UNet; its other networks are not used."""
        if self.text:
            kind = {"kind": "video_ldm", "temporal": self.temporal} if self.temporal else {"kind": "image_ldm"}
            width = self.unet["context_dim"]
            return {**kind, "unet": self.unet, "text_encoder": {"layers": 1, "width": width, "heads": width // 64}}
        return {
            "unet": self.unet,
            "image_encoder": {"layers": 1, "output_dim": self.unet["context_dim"]},
            "sampling": {"num_frames": self.latents[1]},
        }

    def random_inputs(self) -> dict[str, np.ndarray]:
        """Clips, noise, noise levels and conditioning: float32, the same in every process."""
        generator = np.random.default_rng(0)
        clips, frames = self.latents[:2]
        concat = generator.standard_normal((clips, 1, *self.latents[2:]))
        tokens = PROMPT_TOKENS if self.text else 1
        timestep = np.linspace(*TIMESTEPS, clips)
        x = {
            "latents": generator.standard_normal(self.latents),
            "noise": generator.standard_normal(self.latents),
            "sigma": _sigma_of(timestep) if self.text else np.exp(1 + 1.6 * generator.standard_normal(clips)),
            "timestep": timestep,
            "context": generator.standard_normal((clips, tokens, self.unet["context_dim"])),
            "concat": np.repeat(concat, frames, axis=1),
            "numbers": np.broadcast_to([6, 127, 0.02], (clips, 3)),
        }
        return {name: value.astype(np.float32) for name, value in x.items()}

    @property
    def network_inputs(self) -> list[np.ndarray]:
        """x, c_noise, context, and fps, motion bucket and augmentation, which models that are given text have not."""
        x = self.random_inputs()
        if self.text:
            return [x["latents"], x["timestep"], x["context"]]
        return [np.concatenate([x["latents"], x["concat"]], 2), 0.25 * np.log(x["sigma"]), x["context"], x["numbers"]]

    def __str__(self) -> str:
        return "latents {} x {} x {} x {} x {}".format(*self.latents)


SD1 = {"in_channels": 4, "num_heads": 8, "context_dim": 768, "vector_dim": None, "convolution_projection": True}
SD2 = {"in_channels": 4, "num_heads": None, "context_dim": 1024, "vector_dim": None, "convolution_projection": False}
TINY_SD1 = SD1 | {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [1]}
ANIMATEDIFF = ("UNetMotionModel", {"motion_modules": {"norm": "clip"}})
"""Diffusers' class, and layers that normalise as it does."""
MODELSCOPE = ("UNet3DConditionModel", {"modelscope": {}})
SIZES = {
    "tiny": Size(
        {"model_channels": 32, "channel_mult": [1], "num_res_blocks": 1, "attention_resolutions": []}
        | {"num_head_channels": 16, "context_dim": 16, "vector_dim": 24},
        (2, 3, 4, 4, 4),
    ),
    "small": Size(
        {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 2, "attention_resolutions": [1, 2]}
        | {"num_head_channels": 32, "context_dim": 96, "vector_dim": 192},
        (4, 8, 4, 16, 16),
    ),
    "medium": Size(
        {"model_channels": 128, "channel_mult": [1, 2, 2], "num_res_blocks": 1, "attention_resolutions": [1, 2, 4]}
        | {"num_head_channels": 64, "context_dim": 1024, "vector_dim": 576},
        (2, 8, 4, 32, 32),
    ),
    "full": Size({"context_dim": 1024, "vector_dim": 768}, (2, 2, 4, 16, 16)),
    "tiny_image": Size(TINY_SD1, (2, 1, 4, 8, 8), "UNet2DConditionModel"),
    "tiny_animatediff": Size(TINY_SD1, (2, 3, 4, 8, 8), *ANIMATEDIFF),
    "image": Size({"model_channels": 128} | SD1, (2, 1, 4, 32, 32), "UNet2DConditionModel"),
    "animatediff": Size({"model_channels": 128} | SD1, (2, 8, 4, 16, 16), *ANIMATEDIFF),
    "modelscope": Size({"model_channels": 128} | SD2, (2, 8, 4, 16, 16), *MODELSCOPE),
}


def _sigma_of(timestep: np.ndarray) -> np.ndarray:
    """The noise levels of Stable Diffusion's timesteps, without this project, which PyTorch's side does not import."""
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[timestep.astype(int)]
    return np.sqrt((1 - alpha_bar) / alpha_bar)


def model_config(settings: Settings):
    """The svd.config.ModelConfig of these settings."""
    from svd.config import parse_config

    return parse_config(json.dumps(settings))


def write_model(settings: Settings, networks: tuple[str, ...], folder: Path) -> None:
    """Write random weights in both layouts, one tensor at a time; ends the program if there is no room for them.

    Args:
        networks: those that are written, by the prefix of their parameters.
        folder: a new one, with CHECKPOINT and DIFFUSERS.
    """
    from svd.build import parameter_shapes
    from svd.checkpoints.formats import MODEL_FORMAT
    from svd.checkpoints.tensor_files import read_safetensors, write_safetensors
    from svd.config import dump_config
    from svd.files import FileError, atomic_write
    from svd_tools.checkpoints.conversion import to_layout
    from svd_tools.checkpoints.layouts import find_layout

    config = model_config(settings)
    shapes = {name: shape for name, shape in parameter_shapes(config).items() if name.startswith(networks)}
    tensors = {name: random_tensor(name, shape) for name, shape in shapes.items()}
    try:
        with atomic_write(folder, need=2 * sum(tensor.nbytes for tensor in tensors.values())) as aside:
            aside.mkdir()
            write_safetensors(aside / CHECKPOINT, tensors, {"format": MODEL_FORMAT, "config": dump_config(config)})
            layout = find_layout(config, "diffusers")
            theirs = to_layout(read_safetensors(aside / CHECKPOINT), layout, config)
            layout.folder.write(aside / DIFFUSERS, theirs, config, lambda count: None, NO_VOCABULARY)
    except FileError as error:
        sys.exit(f"{error}; choose another --folder")


def random_tensor(name: str, shape: tuple[int, ...]):
    """Values of its own that keep activations near 1, drawn when they are written."""
    from svd.checkpoints.tensor_files import LazyTensor

    def read() -> np.ndarray:
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
        if len(shape) > 1:
            return np.divide(noise, np.float32(math.sqrt(math.prod(shape[1:]))), out=noise)
        if "norm" in name and name.endswith("weight"):
            return 1 + np.float32(0.2) * noise
        return np.float32(0.2) * noise

    return LazyTensor(shape, np.dtype(np.float32), (name, 0), read)


def command_line(description: str) -> ArgumentParser:
    """The options of the benchmarks of networks."""
    parser = interleaved.options(description)
    parser.add_argument("--profile", action="store_true", help="print where this project's time goes, by operator")
    return parser


def compare(
    sides: tuple[Build, Build],
    settings: Settings,
    networks: tuple[str, ...],
    arguments: tuple,
    options: Namespace,
    unit: str,
    inputs: str,
) -> None:
    """Write these networks of a random model, and let this project and PyTorch compute with it in turns.

    Args:
        sides: this project's and PyTorch's; each is called with the folder of the model and the arguments.
        networks: by the prefix of their parameters.
        options: of the command line.
        unit, inputs: as for `interleaved.compare`.
    """
    with interleaved.temporary_folder(options.folder) as folder:
        model = folder / "model"
        interleaved.in_own_process(write_model, settings, networks, model)
        interleaved.compare(sides, (model, *arguments), options.repeats, unit, inputs, options.profile)


def load_pretrained(kind: type, folder: Path):
    """A network of diffusers or transformers, on as many threads as there are cores, and what was built."""
    import torch

    torch.set_num_threads(interleaved.cores())
    start = time.perf_counter()
    network = kind.from_pretrained(folder)
    return network, Built(time.perf_counter() - start, network.num_parameters())


def load_diffusers_unet(size: Size, folder: Path):
    """Diffusers' network, what was built, and a function of what `network_inputs` makes, which evaluates it."""
    import diffusers

    network, built = load_pretrained(getattr(diffusers, size.theirs), folder / DIFFUSERS / "unet")

    def evaluate(x, c_noise, context, *numbers):
        if not size.text:
            return network(x, c_noise, context, *numbers).sample
        if not size.temporal:
            return network(x[:, 0], c_noise, context).sample[:, None]
        if size.theirs == "UNetMotionModel":
            context = context.repeat_interleave(x.shape[1], 0)
        return network(x.transpose(1, 2), c_noise, context).sample.transpose(1, 2)

    return network, built, evaluate


def load_networks(networks: dict[str, Callable], folder: Path, trained: Callable = lambda network: ()):
    """Build networks and load their weights, as `svd.load_pipeline` does, in float32 on CPU.

    Args:
        networks: functions that build them, by the prefix of their parameters.
        folder: of the model.
        trained: network -> its parameters that are to be trained.

    Returns:
        The list of networks, and what was built.
    """
    from svd import runtime

    runtime.setup("CPU")
    import mindspore as ms
    from mindspore.nn.utils import no_init_parameters

    from svd.checkpoints.model_file import Checkpoint
    from svd.placement import place

    start = time.perf_counter()
    with no_init_parameters():
        built = {prefix: build() for prefix, build in networks.items()}
    for network in built.values():
        network.set_train(False)
        place(network, "CPU", ms.float32, trained(network))
    Checkpoint(folder / CHECKPOINT).load(built)
    parameters = sum(parameter.size for network in built.values() for parameter in network.get_parameters())
    return list(built.values()), Built(time.perf_counter() - start, parameters)


def call_of(network, *inputs) -> Call:
    """A call of MindSpore's network on these arrays."""
    from mindspore import Tensor

    tensors = [Tensor(array) for array in inputs]
    return lambda: network(*tensors).asnumpy()


def training_call(step, optimizer, inputs: Callable[[], tuple]) -> Call:
    """A call that takes the next step of a training, with the inputs that are next, and returns its loss."""
    from mindspore import Tensor

    from svd.training.step import host_scalar

    updates = itertools.count(1)

    def take_step() -> float:
        of_update = Tensor(np.array(optimizer.coefficients(next(updates), LEARNING_RATE), np.float32))
        loss, _ = step(host_scalar(1.0), host_scalar(True), of_update, host_scalar(0.0), *inputs())
        return float(loss.asnumpy())

    return take_step
