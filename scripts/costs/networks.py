"""The project's networks as traces, and the memory of their training."""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter
from mindspore.nn.utils import no_init_parameters

from scripts.costs.steps import UPDATE, Step, forward_steps, live_bytes, training_steps
from scripts.costs.trace import SIZES, Trace
from svd.build import build_networks
from svd.config import ModelConfig, UNetConfig
from svd.layers.lora import adapters, add_adapters
from svd.layers.marks import temporal_parameters
from svd.layers.recompute import blocks
from svd.layers.resblock import VideoResBlock
from svd.layers.transformer import VideoTransformer
from svd.networks.blocks.svd import svd_unet
from svd.networks.unet import UNet
from svd.placement import place
from svd.training.config import LoRAConfig
from svd.training.tasks.video import freeze_others


@dataclass(frozen=True)
class Clip:
    """The size of a clip."""

    frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.frames} x {self.height} x {self.width}"

    def unet_inputs(self, clips: int, config: UNetConfig) -> list[tuple[int, ...]]:
        """Shapes of the UNet's inputs: latents, noise level, context and vector."""
        latents = (clips, self.frames, config.in_channels, self.height // 8, self.width // 8)
        return [latents, (clips,), (clips, 1, config.context_dim), (clips, config.vector_dim)]


@dataclass(frozen=True)
class Training:
    """How a UNet is trained."""

    trained: str = "temporal"
    """temporal, all, lora (adapters, with the settings' defaults), or nothing."""
    recompute: bool = False
    """Keep only the inputs of the UNet's blocks, as `svd.layers.recompute`."""
    rank: int = 16
    """Of the adapters."""
    device: str = "Ascend"
    """Whose operators: Ascend's in float16, or CPU's in float32."""
    dtype: ms.Type = ms.float16
    """What is computed in."""
    tape: bool = False
    """Keep every result for the way back, needed or not, as pynative mode does."""


def build_unet(config: UNetConfig, training: Training) -> UNet:
    """The UNet in its form for the device, parameters without values; what is trained requires gradients."""
    with no_init_parameters():
        network = svd_unet(config)
    masters = trained_parameters(network, training)
    freeze_others(network, {parameter.name: parameter for parameter in masters})
    return place(network, training.device, training.dtype, masters)


def trace_unet(config: UNetConfig, shapes: list[tuple[int, ...]], training: Training) -> Trace:
    """The UNet run on inputs of these shapes."""
    network = build_unet(config, training)
    return Trace(network, blocks(network) if training.recompute else ()).run(*shapes)


def trained_parameters(network: UNet, training: Training) -> list[Parameter]:
    """What is trained in a network; adapters are added to it if it is those."""
    match training.trained:
        case "temporal":
            return temporal_parameters(network)
        case "all":
            return list(network.get_parameters())
        case "lora":
            lora = LoRAConfig(training.rank)
            add_adapters(network, lora.modules, lora.rank, lora.scaled_by, seed=0)
            return adapters(network)
    return []


def encoder_steps(config: ModelConfig, clip: Clip) -> dict[str, list[Step]]:
    """Kernels that encode one image for training: CLIP's in float16, and the autoencoder's in float32."""
    networks, size = build_networks(config), config.image_encoder.image_size
    image_encoder = place(networks["conditioner.image_encoder"], "Ascend", ms.float16)
    encoder = place(networks["autoencoder.encoder"], "Ascend", ms.float32)
    return {
        "image_encoder": forward_steps(Trace(image_encoder).run((1, 3, size, size)).nodes),
        "encoder": forward_steps(Trace(encoder).run((1, 3, clip.height, clip.width)).nodes),
    }


@dataclass(frozen=True)
class Memory:
    """What training takes, in bytes."""

    weights: int
    """Of the UNet; trained ones in float32."""
    states: int
    """AdamW's two averages, and the average of the weights."""
    kept: int
    """Arrays for the way back, when the way forward ends."""
    peak: int
    """The most arrays at once, with gradients and what kernels work on."""


def training_memory(config: UNetConfig, shapes: list[tuple[int, ...]], training: Training) -> Memory:
    """The memory of a training step of the UNet; without encoders, which are done when it begins."""
    trace = trace_unet(config, shapes, training)
    live = live_bytes(training_steps(trace, training.tape))
    parameters = list(trace.network.get_parameters())
    trained = sum(4 * p.size for p in parameters if p.requires_grad)
    weights = sum(p.size * SIZES[p.dtype] for p in parameters)
    return Memory(weights, 3 * trained, live[len(forward_steps(trace.nodes)) - 1], max(live))


def parts(network: UNet) -> dict[str, str]:
    """The parts of the UNet, in space and in time, by the names of the cells that belong to them; and the update."""
    kinds, found, in_time = {VideoResBlock: "residual blocks", VideoTransformer: "transformers"}, {}, set()
    for name, cell in network.cells_and_names():
        within = {inner for inner, _ in cell.cells_and_names(name_prefix=name)}
        if type(cell) in kinds:
            found |= dict.fromkeys(within, kinds[type(cell)])
        if getattr(cell, "is_temporal", False):
            in_time |= within
    names = {name: f"{kind}, {'time' if name in in_time else 'space'}" for name, kind in found.items()}
    return names | {UPDATE: UPDATE}
