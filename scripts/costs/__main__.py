"""Operations, bytes, kernels and memory of the networks, on paper.

    python -m scripts.costs performance    # what a denoising step and a training step compute and move, and their time
    python -m scripts.costs memory         # what training keeps, for several sizes and trained sets
    python -m scripts.costs kernels        # the operators of the compiled graphs, beside those that are counted
    python -m scripts.costs check          # the memory of a small training step here, measured and computed

All is computed from the architecture (scripts/costs); only `check` runs a network. Prints Markdown.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import jsonargparse

from svd import runtime
from svd.layers.recompute import recompute_blocks

# isort: split
import mindspore as ms
import numpy as np

from scripts.costs.networks import Clip, Training, build_unet, encoder_steps, parts, trace_unet, training_memory
from scripts.costs.steps import UPDATE, Step, forward_steps, live_bytes, training_steps
from svd.config import ModelConfig, UNetConfig
from svd.diffusion.denoiser import Denoise
from svd.diffusion.loss import DenoisingLoss, loss_coefficients
from svd.diffusion.preconditioning import v_scaling
from svd.networks.unet import UNet
from svd.training.config import OptimizerConfig
from svd.training.optimizer import AdamW, WeightAverage
from svd.training.step import TrainStep, host_scalar

ROOT = Path(__file__).parents[2]
PRODUCTS = ("convolutions", "projections", "attention", UPDATE)
"""Kinds of kernels whose bytes remain where all others are fused into them."""
BOOKKEEPING = {"Load", "UpdateState", "Depend", "MakeTuple", "TupleGetItem", "Reshape", "ExpandDims"}
"""Nodes of a compiled graph that call no kernel."""


@dataclass
class Card:
    """What a card can do, and how far from it kernels stay; the defaults are those of an Ascend 910B2."""

    tflops: float = 353.9
    """Peak of float16 products: 24 cube cores, each 16 x 16 x 16 multiply-adds at 1.8 GHz (CANN's platform_config)."""
    tflops_float32: float = 88.5
    """The same of float32: an assumption, a quarter."""
    bandwidth: float = 1.6
    """Of the memory, TB/s (CANN's guide for moving operators between generations)."""
    efficiency: tuple[float, float] = (0.7, 0.35)
    """Share of the peak that products reach, at best and at worst: an assumption."""
    bandwidth_efficiency: tuple[float, float] = (0.8, 0.4)
    """Share of the bandwidth that kernels reach, at best and at worst: an assumption."""
    launch_us: tuple[float, float] = (2.0, 10.0)
    """Microseconds between kernels, at best and at worst: an assumption."""

    def seconds(self, steps: list[Step]) -> float:
        """Time of kernels one after the other, each as long as its products or its bytes take."""
        return sum(max(step.flops / self.tflops, step.bytes / self.bandwidth) for step in steps) / 1e12

    def expected(self, steps: list[Step]) -> str:
        """The same from the best to the worst case, with the time between kernels."""
        times = []
        for products, bandwidth, launch in zip(self.efficiency, self.bandwidth_efficiency, self.launch_us):
            real = replace(self, tflops=self.tflops * products, bandwidth=self.bandwidth * bandwidth)
            times.append(real.seconds(steps) + len(steps) * launch / 1e6)
        return "{:.2f} to {:.2f} s".format(*times)

    def bound(self, steps: list[Step]) -> str:
        """What most of the time at the peaks goes into."""
        moving = [step for step in steps if step.bytes / self.bandwidth > step.flops / self.tflops]
        return "memory" if self.seconds(moving) > self.seconds(steps) / 2 else "products"


def performance(
    frames: list[int] = [14, 4],  # noqa: B006
    height: int = 576,
    width: int = 1024,
    card: Card = Card(),  # noqa: B008
) -> None:
    """Operations and bytes of a denoising step with guidance, and of a training step of one clip.

    Args:
        frames: of the clips.
        height: pixels.
        width: pixels.
        card: what it can do.
    """
    config = ModelConfig()
    for clip in (Clip(n, height, width) for n in frames):
        trace = trace_unet(config.unet, clip.unet_inputs(2, config.unet), Training("nothing"))
        print_costs(f"Denoising step, {clip}, with guidance", forward_steps(trace.nodes), card, parts(trace.network))
        for recompute in (False, True):
            training = Training("temporal", recompute)
            trace = trace_unet(config.unet, clip.unet_inputs(1, config.unet), training)
            title = f"Training step, {clip}, temporal layers{', recomputing' * recompute}"
            print_costs(title, training_steps(trace), card, parts(trace.network))
        images, encoders = clip.frames + 1, encoder_steps(config, clip)  # the frames, and the conditioning image
        float32, steps = replace(card, tflops=card.tflops_float32), images * encoders["encoder"]
        print(f"Before a training step {sum(step.flops for step in steps) / 1e12:.0f} TFLOP of the encoder, ", end="")
        print(f"{images} images in float32: {float32.seconds(steps):.2f} s at the peaks,")
        print(f"expected {float32.expected(steps)}; and the image encoder, ", end="")
        print(f"{card.seconds(encoders['image_encoder']):.3f} s at the peaks.\n")


def print_costs(title: str, steps: list[Step], card: Card, part_of: dict[str, str]) -> None:
    """A table by kind of operator and by part of the network, and the times."""
    print(f"### {title}\n")
    print("| | kernels | TFLOP | GB moved | s at the peaks | bound by |\n|---|---|---|---|---|---|")
    for key in (lambda step: step.kind, lambda step: part_of.get(step.part, "the rest"), lambda _: "all"):
        groups = defaultdict(list)
        for step in steps:
            groups[key(step)].append(step)
        for name, group in sorted(groups.items(), key=lambda item: -card.seconds(item[1])):
            tflop, gigabytes = sum(s.flops for s in group) / 1e12, sum(s.bytes for s in group) / 1e9
            print(f"| {name} | {len(group):,} | {tflop:.1f} | {gigabytes:.0f} ", end="")
            print(f"| {card.seconds(group):.3f} | {card.bound(group)} |")
    fused = [step for step in steps if step.kind in PRODUCTS]
    gigabytes = sum(step.bytes for step in fused) / 1e9
    print(f"\nAt the peaks {card.seconds(steps):.2f} s; {card.seconds(fused):.2f} s and {gigabytes:.0f} GB ", end="")
    print(f"if all but products and the update were fused into them; expected {card.expected(steps)}.\n")


def memory(
    frames: list[int] = [4, 14, 25],  # noqa: B006
    sizes: list[tuple[int, int]] = [(320, 576), (576, 1024)],  # noqa: B006
    rank: int = 16,
) -> None:
    """Memory of a training step of one clip in float16, by size and trained set, in GB (10^9 bytes).

    Args:
        frames: of the clips.
        sizes: height and width in pixels.
        rank: of low-rank adapters.
    """
    config = ModelConfig()
    heads = ("clip", "trained", "weights", "states", "kept", "peak", "kept, recomputing", "peak, recomputing")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for (height, width), count in product(sizes, frames):
        clip = Clip(count, height, width)
        encoders = encoder_steps(config, clip).values()
        weights = {array for steps in encoders for step in steps for array in step.reads if array.weight}
        encoding = max(max(live_bytes(steps)) for steps in encoders)
        for trained in ("temporal", "all", "lora"):
            shapes = clip.unet_inputs(1, config.unet)
            both = [training_memory(config.unet, shapes, Training(trained, again, rank)) for again in (False, True)]
            encoder_weights = sum(array.size for array in weights)
            row = [both[0].weights + encoder_weights, both[0].states]
            for m in both:
                row += [m.kept, encoder_weights + m.weights + m.states + max(m.peak, encoding)]
            print(f"| {clip} | {trained} | " + " | ".join(f"{number / 1e9:.1f}" for number in row) + " |")


def kernels(frames: int = 14, height: int = 576, width: int = 1024, channels: int = 64) -> None:
    """Count the operators of the compiled graphs, beside those that are counted here.

    Args:
        frames: of the clip.
        height: pixels.
        width: pixels.
        channels: of the UNet's first level; kernels do not depend on it, but compilation wants memory for the weights.
    """
    runtime.setup("CPU")
    config, clip = replace(ModelConfig().unet, model_channels=channels), Clip(frames, height, width)
    shapes = clip.unet_inputs(2, config)
    trace = trace_unet(config, shapes, Training("nothing"))
    print_counts("Denoising", compiled(trace.network, [tensor(*shape) for shape in shapes]), forward_steps(trace.nodes))
    shapes = clip.unet_inputs(1, config)
    trace = trace_unet(config, shapes, Training("temporal"))
    print_counts("Training", compiled(*train_step(trace.network, shapes)), training_steps(trace))


def print_counts(title: str, graph: Counter, steps: list[Step]) -> None:
    counted = Counter(step.primitive for step in steps)
    print(f"### {title}: {graph.total():,} kernels in the graph, {counted.total():,} counted\n")
    print("| | graph | counted |\n|---|---|---|")
    for name in sorted(graph | counted, key=lambda name: -max(graph[name], counted[name])):
        print(f"| {name} | {graph[name]:,} | {counted[name]:,} |")
    print()


def compiled(network: ms.nn.Cell, inputs: list[ms.Tensor]) -> Counter:
    """The operators of a network's graph, as MindSpore compiles it for any device."""
    counts = []

    def count(model) -> None:  # called after compilation and before writing
        names = {f"REF::{primitive.name}": primitive.op_type for primitive in model.primitives}
        nodes = (node for graph in (model.graph, *model.functions) for node in graph.node)
        counts.append(Counter(names[node.op_type] for node in nodes if node.op_type in names))
        del model.graph.parameter[:]

    give_zeros(network)
    with tempfile.TemporaryDirectory() as folder:
        ms.export(network, *inputs, file_name=f"{folder}/graph", file_format="MINDIR", custom_func=count)
    return Counter({name: number for name, number in counts[0].items() if name not in BOOKKEEPING})


def give_zeros(network: ms.nn.Cell) -> None:
    """Let parameters have values, which compilation asks for; zeros take no memory before they are touched."""
    for parameter in network.get_parameters():
        zeros = np.zeros(parameter.shape, str(parameter.dtype).lower())
        parameter.set_data(ms.Tensor.from_numpy(zeros))


def tensor(*shape: int) -> ms.Tensor:
    return ms.Tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def train_step(network: UNet, shapes: list[tuple[int, ...]]) -> tuple[TrainStep, list[ms.Tensor]]:
    """The training step of a network, of what requires gradients in it, and inputs for it."""
    give_zeros(network)
    trained = network.trainable_params()
    optimizer = AdamW(trained, OptimizerConfig())
    step = TrainStep(DenoisingLoss(Denoise(network)), optimizer, trained, WeightAverage(trained, 0.999))
    (b, t, c, h, w), _, context, vector = shapes
    coefficients = ms.Tensor(np.array(optimizer.coefficients(1, 1e-5), np.float32))
    inputs = [host_scalar(1.0), host_scalar(True), coefficients, host_scalar(0.1)]
    inputs += [tensor(b, t, c // 2, h, w), tensor(b, t, c // 2, h, w), loss_coefficients(v_scaling(), np.ones(b))]
    return step, [*inputs, tensor(*context), tensor(b, t, c // 2, h, w), tensor(*vector)]


CHECKED = UNetConfig(
    model_channels=64,
    channel_mult=[1, 2],
    num_res_blocks=1,
    attention_resolutions=[1, 2],
    num_head_channels=32,
    context_dim=96,
    vector_dim=192,
)
"""What `check` trains: its weights take next to no memory beside what it keeps."""


def check(frames: int = 8, height: int = 320, width: int = 320, modes: list[Literal[0, 1]] = [1]) -> None:  # noqa: B006
    """Measure what a training step of a small UNet takes on CPU, and compare it with what is computed.

    What is measured is the most that MindSpore's pool of memory has in use, as it says itself: arrays that kernels
    write. Weights and states are not in it.

    Args:
        frames: of the clip.
        height: pixels.
        width: pixels.
        modes: 0 for graph mode, which is compiled for minutes, 1 for pynative.
    """
    print("| trained | mode | recompute | computed, GB | measured, GB | |\n|---|---|---|---|---|---|")
    for mode, trained, recompute in product(modes, ("temporal", "all", "lora"), (False, True)):
        training = Training(trained, recompute, device="CPU", dtype=ms.float32, tape=mode == 1)
        clip = Clip(frames, height, width)
        computed = training_memory(CHECKED, clip.unet_inputs(1, CHECKED), training).peak / 1e9
        settings = {"mode": mode, "trained": trained, "recompute": recompute, "clip": asdict(clip)}
        command = [sys.executable, "-m", "scripts.costs", "measure", json.dumps(settings)]
        wanted = {**os.environ, "MS_DEV_RUNTIME_CONF": "memory_statistics:True"}
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=wanted, cwd=ROOT).stdout
        (megabytes,) = re.findall(r"Common mem pool info: .*?peak used mem:(\d+)M", output)
        measured = int(megabytes) * 2**20 / 1e9
        print(f"| {trained} | {('graph', 'pynative')[mode]} | {'yes' if recompute else 'no'} ", end="")
        print(f"| {computed:.3f} | {measured:.3f} | {measured / computed - 1:+.0%} |", flush=True)


def measure(mode: int, trained: str, recompute: bool, clip: dict[str, int]) -> None:
    """Take a training step."""
    runtime.setup("CPU", mode)
    network = build_unet(CHECKED, Training(trained, device="CPU", dtype=ms.float32))
    if recompute:
        recompute_blocks(network)
    step, inputs = train_step(network, Clip(**clip).unet_inputs(1, CHECKED))
    loss, _ = step(*inputs)
    loss.asnumpy()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    jsonargparse.auto_cli([performance, memory, kernels, check], args=arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:  # by `check`, in a process of its own
        measure(**json.loads(sys.argv[2]))
    else:
        main()
