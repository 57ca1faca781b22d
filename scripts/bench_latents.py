"""How long a step of training takes, and how much memory, from videos and from their latents.

    python scripts/bench_latents.py
    python scripts/bench_latents.py --frames 14 --height 256 --width 448 --repeats 20

Writes H.264 videos, encodes them, and takes steps of both in turns, each in a process of its own: the same updates of
the same small random model, whose autoencoder has the published one's levels. A step is loading the clip, encoding it,
and the update; with --workers 1 another process loads clips ahead. Prints a Markdown table.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import interleaved
import numpy as np
from bench_models import CHECKPOINT, model_config, training_call, write_model
from interleaved import Built, Call, Side

ROOT = Path(__file__).resolve().parents[1]
VIDEOS = 4
MODEL = {
    "unet": {"model_channels": 64, "channel_mult": [1, 2], "attention_resolutions": [1, 2]}
    | {"num_head_channels": 32, "context_dim": 64, "vector_dim": 96},
    "autoencoder": {"channels": 32},
    "image_encoder": {"width": 256, "layers": 6, "heads": 4, "output_dim": 64},
}


def main() -> None:
    parser = interleaved.options(__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip")
    parser.add_argument("--height", type=int, default=128, help="pixels of a clip, a multiple of 64")
    parser.add_argument("--width", type=int, default=192, help="pixels of a clip, a multiple of 64")
    parser.add_argument("--workers", type=int, default=0, help="processes that load clips ahead")
    parser.add_argument("--mode", type=int, default=0, help="0 for graph mode, 1 for pynative")
    options = parser.parse_args()
    size = {name: options[name] for name in ("frames", "height", "width")}
    with interleaved.temporary_folder(options.folder) as folder:
        interleaved.in_own_process(write_inputs, folder, *size.values())
        encode(folder, size, options.mode, passes=options.repeats // VIDEOS + 2)
        with ExitStack() as stack:
            arguments = (folder, size, options.mode, options.workers)
            sides = [stack.enter_context(Side(data, step_of, (data, *arguments))) for data in ("videos", "latents")]
            first = [side.run(interleaved.take_turn) for side in sides]
            rounds = [[side.run(interleaved.take_turn) for side in sides] for _ in range(options.repeats)]
            memory = [side.run(interleaved.resident_bytes) for side in sides]
    losses = np.array([[turn.value for turn in turns] for turns in rounds])
    print("Clips of {frames} x {height} x {width};".format(**size), end=" ")
    print(f"{sides[0].built.parameters:,} parameters in the UNet;", end=" ")
    print(f"{interleaved.cores()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| training from | first step, s | step, s | peak memory, GB |\n|---|---|---|---|")
    for side, start, turns, (peak, _) in zip(sides, first, zip(*rounds), memory):
        spread = interleaved.spread([turn.seconds for turn in turns])
        print(f"| {side.name} | {start.seconds:.1f} | {spread} | {peak / 1e9:.2f} |")
    print(f"\nThe losses differ by {np.max(np.abs(losses[:, 1] / losses[:, 0] - 1)):.1e} of their value at most.")


def write_inputs(folder: Path, frames: int, height: int, width: int) -> None:
    """Write a random model, videos of noise that moves, twice as long and as large as clips, and their CSV file."""
    import cv2

    from svd.data.videos import write_video

    write_model(MODEL, ("network.", "conditioner.", "autoencoder."), folder / "model")
    rows = ["path,length,motion_bucket_id"]
    for video in range(VIDEOS):
        blots = np.random.default_rng(video).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        scene = cv2.resize(blots, (4 * width, 2 * height), interpolation=cv2.INTER_CUBIC)
        moving = np.stack([scene[:, 2 * t : 2 * (t + width)] for t in range(2 * frames)])
        write_video(folder / f"{video}.mp4", moving, 8)
        rows.append(f"{video}.mp4,{len(moving)},{10 * video}")
    (folder / "videos.csv").write_text("\n".join(rows) + "\n")


def encode(folder: Path, size: dict[str, int], mode: int, passes: int) -> None:
    """Run svd_tools/encode_latents.py."""
    init = {"metadata": f"{folder}/videos.csv", **size}
    flags = [f"--train.dataset.init_args.{name}={value}" for name, value in init.items()]
    flags += [f"--train.pretrained={folder}/model/{CHECKPOINT}", f"--environment.mode={mode}"]
    flags += [f"--out={folder}/latents", f"--passes={passes}", "--environment.device_target=CPU"]
    program = [sys.executable, "-m", "svd_tools.encode_latents", *flags]
    subprocess.run(program, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def step_of(data: str, folder: Path, size: dict[str, int], mode: int, workers: int) -> tuple[Built, Call]:
    """Build a training, and return a call that takes its next step and returns the loss."""
    from svd.build_training import load_trainer
    from svd.data.latents_dataset import LatentsDataset
    from svd.data.loader import Loader
    from svd.data.video_dataset import VideoDataset
    from svd.training.checkpoint import TrainState
    from svd.training.config import EnvironmentConfig, TrainConfig

    dataset = LatentsDataset(f"{folder}/latents") if data == "latents" else VideoDataset(f"{folder}/videos.csv", **size)
    config = TrainConfig(dataset, pretrained=f"{folder}/model/{CHECKPOINT}", output_dir=f"{folder}/run", updates=1)
    start = time.perf_counter()
    where = EnvironmentConfig(mode, "CPU")
    trainer, _ = load_trainer(config, where, model_config(MODEL), TrainState(), None)
    parameters = sum(parameter.size for parameter in trainer.objective.loss.get_parameters())
    built = Built(time.perf_counter() - start, parameters, sum(p.size for p in trainer.objective.trained.values()))
    loader = Loader(dataset, config.seed, config.batch_size, workers=workers)

    def inputs() -> tuple:
        batch = next(loader)
        return trainer.objective.inputs(batch.items, batch.samples)

    return built, training_call(trainer.player.step, trainer.player.optimizer, inputs)


if __name__ == "__main__":
    main()
