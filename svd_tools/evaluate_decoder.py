"""Measure how decoders give videos back: encode clips, decode them with each checkpoint, and compare.

svd evaluate-decoder --checkpoint before.safetensors after.safetensors --data=VideoDataset
    --data.init_args.metadata=clips.csv --data.init_args.height=64 --data.init_args.width=64

Prints a table and writes it to OUT_DIR/metrics.json, with OUT_DIR/options.yaml, which repeats it.
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("evaluate-decoder")

import json
from pathlib import Path
from typing import Optional

import numpy as np
import pandas as pd
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm import tqdm

from svd import __version__, cli, runtime
from svd.checkpoints.model_file import Checkpoint
from svd.cli.options import add_device, new_parser
from svd.cli.outputs import side_file
from svd.config import ConfigError, LatentModel
from svd.data.dataset import Dataset, DatasetError
from svd.data.latents_dataset import LatentsDataset
from svd.data.moving_digits import MovingDigits
from svd.data.video_dataset import Clip, VideoDataset  # noqa: F401 (known by its name to --data)
from svd.files import check_folder, sha256, write_text
from svd.resources import DIGITS

PARTS = tuple(f"{of}autoencoder.{part}" for of in ("", "conditioner.") for part in ("encoder", "decoder"))


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = new_parser(program, __doc__, "File of these options, such as an earlier options.yaml.")
    add = parser.add_argument
    add("--checkpoint", nargs="+", type=str, help="Models whose decoders are measured, as svd_tools/convert.py and "
        "train.py write them; a row of the table for each.")  # fmt: skip
    add("--data", type=Dataset, default={"class_path": f"{MovingDigits.__module__}.{MovingDigits.__name__}"},
        help="The clips: `class_path` and `init_args` of VideoDataset or MovingDigits.")  # fmt: skip
    add("--clips", type=PositiveInt, default=256, help="How many; of fewer videos several clips each.")
    add("--judge", default=str(DIGITS / "judge.safetensors"), help="The network whose features the Frechet distance "
        "compares, as `svd digits train-judge` writes it.")  # fmt: skip
    add("--decode_frames", type=Optional[PositiveInt], help="Frames that are decoded together; whole clips if not "
        "given.")  # fmt: skip
    add("--seed", type=NonNegativeInt, default=0, help="Of where in their videos clips begin.")
    add("--out_dir", default="outputs/decoder_evaluation", help="Folder to write to; an earlier evaluation there is "
        "replaced.")  # fmt: skip
    add_device(parser)
    return parser


def run(parser: ArgumentParser, args: Namespace) -> None:
    """The work of the command line."""
    if not args.checkpoint:
        raise ConfigError("--checkpoint is missing: models whose decoders are measured")
    if args.clips < 2:
        raise ConfigError(f"--clips must be 2 or more, got {args.clips}: one has no covariance")
    check_folder(args.out_dir, "--out_dir")
    data = _data(parser, args)

    from svd.metrics.frechet import frechet_distance  # MindSpore takes seconds to import
    from svd.pipelines.preview import some_clips
    from svd_tools.digits.judge import MIN_FRAMES, judge_videos, load_judge

    if data.frames < MIN_FRAMES:
        raise ConfigError(f"--data.init_args.frames must be {MIN_FRAMES} or more for the judge, got {data.frames}")
    if data.height != data.width:
        raise ConfigError(f"the judge takes squares, not {data.height} x {data.width}: give the same height and width")
    models = {path: _model(path, data) for path in args.checkpoint}
    device = runtime.setup(args.device_target, args.mode)
    judge = load_judge(args.judge, device, data.height)
    clips = some_clips(data, args.clips, args.seed)
    if len(clips) < args.clips:
        raise DatasetError("none of the videos can be used")
    originals = np.stack([clip.frames for clip in clips])
    expected = judge_videos(judge, originals).features
    rows = {}
    for path, model in models.items():
        decoded = _decoded(path, model, clips, device, args.decode_frames)
        distance = frechet_distance(judge_videos(judge, decoded).features, expected)
        rows[path] = {"frechet_video_distance": distance, **differences(decoded, originals)}
    table = pd.DataFrame.from_dict(rows, orient="index")
    folder = Path(args.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"svd": __version__, **runtime.describe(args.mode)}
    facts |= {"judge sha256": sha256(args.judge), **{f"sha256 of {path}": sha256(path) for path in args.checkpoint}}
    write_text(folder / "metrics.json", json.dumps({"scores": rows, "facts": facts}, indent=1) + "\n")
    write_text(folder / "options.yaml", side_file(parser, args, facts))
    print(table.to_string(float_format="%.4f"))


def _data(parser: ArgumentParser, args: Namespace) -> Dataset:
    """The data set; raises DatasetError."""
    try:
        data = parser.instantiate(args).data
    except DatasetError as error:
        raise DatasetError(f"--data.init_args: {error}") from error
    if isinstance(data, LatentsDataset):
        raise DatasetError("--data: clips are encoded here, and latents are encoded already")
    return data


def _model(path: str, data: Dataset) -> LatentModel:
    model = Checkpoint(path).config
    if not isinstance(model, LatentModel):
        raise ConfigError(f"{path} is of a model that {model.purpose}: it has no decoder")
    model.check_size(data.height, data.width)
    return model


def _decoded(path: str, model: LatentModel, clips: list[Clip], device: str, frames: Optional[int]) -> np.ndarray:
    """The clips, encoded and decoded: uint8 [n t h w 3]."""
    from svd.autoencoder.autoencoder import Autoencoder, autoencoder_part
    from svd.build import load_networks
    from svd.pipelines.preview import reconstructed

    networks = load_networks(model, Checkpoint(path), device, "O0", PARTS)
    encoder, decoder = (networks[autoencoder_part(networks, part)] for part in ("encoder", "decoder"))
    autoencoder = Autoencoder(encoder, decoder, model.autoencoder)
    bar = tqdm(clips, desc=f"decoding with {path}", unit="clip")
    return np.stack([reconstructed(autoencoder, clip, frames) for clip in bar])


def differences(decoded: np.ndarray, originals: np.ndarray) -> dict[str, float]:
    """How decoded clips differ from the originals, both uint8 [n t h w 3]; of 256 grey levels, means over all pixels.

    `flicker` is the difference of the steps from frame to frame: what changes where nothing should, or not where it
    should. `psnr` is that of the mean squared error, in dB.
    """
    a, b = decoded.astype(np.float32), originals.astype(np.float32)
    squared = float(np.mean((a - b) ** 2))
    return {
        "flicker": float(np.abs(np.diff(a, axis=1) - np.diff(b, axis=1)).mean()),
        "error": float(np.abs(a - b).mean()),
        "psnr": float(10 * np.log10(255**2 / max(squared, 1e-10))),
    }


def main(argv: Optional[list[str]] = None, program: str = "evaluate_decoder.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    parser = build_parser(program)
    return cli.run(parser, lambda args: run(parser, args), argv)
