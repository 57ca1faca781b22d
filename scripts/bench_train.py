"""Step time of temporal training, against PyTorch with diffusers' network on the same cores.

    python scripts/bench_train.py                  # `small`, a few minutes
    python scripts/bench_train.py --size medium    # 60 M parameters

Both sides have the same weights, the same inputs and the same trained parameters, and run forward, backward, clipping
and AdamW in float32, without encoders. Each is a process of its own; they take their steps in turns, and the one that
waits sleeps. Prints a Markdown table. PyTorch and diffusers have to be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Size:
    """What is trained: settings of the UNet, and the shape of the latents [b t c h w]."""

    unet: dict
    latents: tuple[int, int, int, int, int]


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
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small", help="of network and clips (default: small)")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of each side (default: 10)")
    parser.add_argument("--recompute", action="store_true", help="on both sides, keep fewer activations")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        serve(options)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Let both sides take their steps in turns, and print what they took."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker(side, options, folder) for side in SIDES]  # MindSpore's writes what PyTorch's reads
        first = [worker.ask("step") for worker in workers]
        check_losses(*(step["loss"] for step in first))
        rounds = [[worker.ask("step") for worker in workers] for _ in range(options.repeats)]
        check_losses(*(step["loss"] for step in rounds[-1]))
        peaks = [worker.ask("memory")["bytes"] / 1e9 for worker in workers]
    print(f"{workers[0].ready['parameters']:,} parameters, {workers[0].ready['trained']:,} of them trained; ", end="")
    print("latents {} x {} x {} x {} x {}; ".format(*SIZES[options.size].latents), end="")
    print(f"{len(os.sched_getaffinity(0))} cores, load before {load:.1f}\n")
    print("| side | build, s | first call, s | step, s | peak memory, GB |\n|---|---|---|---|---|")
    medians = []
    for side, worker, call, steps, peak in zip(SIDES, workers, first, zip(*rounds), peaks):
        seconds = [step["seconds"] for step in steps]
        medians.append(statistics.median(seconds))
        spread = f"{medians[-1]:.3f} ({min(seconds):.3f} to {max(seconds):.3f})"
        print(f"| {side} | {worker.ready['seconds']:.1f} | {call['seconds']:.1f} | {spread} | {peak:.2f} |")
    print(f"\nA step takes {medians[0] / medians[1]:.2f} times as long as PyTorch's.")


def check_losses(ours: float, theirs: float) -> None:
    """diffusers' network has other epsilons: its loss is a little off."""
    if abs(ours - theirs) > 1e-3 * abs(theirs):
        sys.exit(f"the losses differ: {ours} here, {theirs} with PyTorch")


class Worker:
    """A side in a process of its own, which answers every line with one of JSON."""

    def __init__(self, side: str, options: argparse.Namespace, folder: str):
        command = [sys.executable, __file__, f"--side={side}", f"--size={options.size}", f"--folder={folder}"]
        command += ["--recompute"] if options.recompute else []
        self.side = side
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self._answer()

    def ask(self, question: str) -> dict:
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.side} stopped with exit code {self.process.wait()}")
        return json.loads(line)


def serve(options: argparse.Namespace) -> None:
    """Build one side, then answer `step` with its time and loss, and `memory` with the peak so far."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    ready, step = SIDES[options.side](SIZES[options.size], Path(options.folder), options.recompute)
    print(json.dumps(ready), file=answers)
    for question in sys.stdin:
        start = time.perf_counter()
        if question.strip() == "memory":
            answer = {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        else:
            answer = {"loss": step(), "seconds": time.perf_counter() - start}
        print(json.dumps(answer), file=answers)


Side = tuple[dict, Callable[[], float]]
"""What there is to say of it, and its step, which returns the loss."""


def mindspore_side(size: Size, folder: Path, recompute: bool) -> Side:
    """Ours; also writes weights and inputs for the other."""
    sys.path.insert(0, str(ROOT))
    from svd import runtime

    runtime.setup("CPU")
    from mindspore import Tensor

    from svd.conditioning.conditioner import Conditioner
    from svd.config import UNetConfig
    from svd.diffusion.loss import DenoisingLoss, loss_coefficients
    from svd.diffusion.preconditioning import v_scaling
    from svd.networks.video_unet import VideoUNet
    from svd.training.config import OptimizerConfig
    from svd.training.optimizer import AdamW
    from svd.training.step import TrainStep, host_scalar

    start = time.perf_counter()
    network = VideoUNet(UNetConfig(**size.unet))
    network.init_parameters_data()
    if recompute:
        network.recompute_blocks()
    trained = network.temporal_parameters()
    for parameter in network.get_parameters():
        parameter.requires_grad = False
    for parameter in trained:
        parameter.requires_grad = True
    optimizer = AdamW(trained, OptimizerConfig(learning_rate=LEARNING_RATE))
    train_step = TrainStep(DenoisingLoss(network), optimizer, trained, average=None)
    seconds = time.perf_counter() - start

    x = random_inputs(size)
    write_for_pytorch(size, {f"network.{p.name}": p for p in network.get_parameters()}, trained, x, folder)
    vector = Conditioner(None, None, 0, size.unet["vector_dim"]).embed_numbers(len(x["sigma"]), *x["numbers"].T)
    coefficients = loss_coefficients(v_scaling(), x["sigma"])
    tensors = {name: Tensor(value) for name, value in x.items()}
    inputs = (tensors["latents"], tensors["noise"], coefficients, tensors["context"], tensors["concat"], vector)
    updates = 0

    def step() -> float:
        nonlocal updates
        updates += 1
        of_update = Tensor(np.array(optimizer.coefficients(updates, LEARNING_RATE), np.float32))
        loss, _ = train_step(host_scalar(1.0), host_scalar(True), of_update, host_scalar(0.0), *inputs)
        return float(loss.asnumpy())

    counts = {"parameters": sum(p.size for p in network.get_parameters()), "trained": sum(p.size for p in trained)}
    return {"seconds": seconds, **counts}, step


def random_inputs(size: Size) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    clips, frames = size.latents[:2]
    concat = generator.standard_normal((clips, 1, *size.latents[2:]))
    x = {
        "latents": generator.standard_normal(size.latents),
        "noise": generator.standard_normal(size.latents),
        "sigma": np.exp(1 + 1.6 * generator.standard_normal(clips)),
        "context": generator.standard_normal((clips, 1, size.unet["context_dim"])),
        "concat": np.repeat(concat, frames, axis=1),
        "numbers": np.broadcast_to([6, 127, 0.02], (clips, 3)),
    }
    return {name: value.astype(np.float32) for name, value in x.items()}


def write_for_pytorch(size: Size, parameters: dict, trained: list, x: dict[str, np.ndarray], folder: Path) -> None:
    """diffusers' folder of the network, the names of what it trains, and the inputs."""
    from safetensors.numpy import save_file

    from svd.config import ImageEncoderConfig, ModelConfig, SamplingConfig, UNetConfig
    from svd_tools.checkpoint_maps import TRANSFORMS, expand
    from svd_tools.diffusers_folder import config_files

    config = ModelConfig(
        unet=UNetConfig(**size.unet),
        image_encoder=ImageEncoderConfig(output_dim=size.unet["context_dim"]),
        sampling=SamplingConfig(num_frames=size.latents[1]),
    )
    entries = expand("diffusers", config, parameters)
    theirs = {entry.ours: entry.theirs.removeprefix("unet.") for entry in entries}
    weights = {e: TRANSFORMS[e.transform].to_theirs(parameters[e.ours].asnumpy()) for e in entries}
    save_file({theirs[e.ours]: value for e, value in weights.items()}, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(config_files(config)["unet/config.json"]))
    (folder / "trained.json").write_text(json.dumps([theirs[f"network.{p.name}"] for p in trained]))
    np.savez(folder / "inputs.npz", **x)


def pytorch_side(size: Size, folder: Path, recompute: bool) -> Side:
    """diffusers' network with the weights and inputs that ours wrote."""
    import torch
    from diffusers import UNetSpatioTemporalConditionModel

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    start = time.perf_counter()
    unet = UNetSpatioTemporalConditionModel.from_pretrained(folder).train()
    if recompute:
        unet.enable_gradient_checkpointing()
    unet.requires_grad_(False)
    names = set(json.loads((folder / "trained.json").read_text()))
    trained = [parameter.requires_grad_() for name, parameter in unet.named_parameters() if name in names]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE)
    seconds = time.perf_counter() - start

    with np.load(folder / "inputs.npz") as arrays:
        x = {name: torch.from_numpy(array) for name, array in arrays.items()}
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

    return {"seconds": seconds}, step


SIDES = {"mindspore": mindspore_side, "pytorch": pytorch_side}

if __name__ == "__main__":
    main()
