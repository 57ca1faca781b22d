"""Where the digits of generated videos move, with adapters (LoRA) at several scales.

python train.py --config=configs/digits/lora_right.yaml
svd digits lora-direction --lora=outputs/digits/lora_right/lora.safetensors

Makes a video of the first frame of each of some held-out clips of one digit, at every scale, with the same noise.
"""

from __future__ import annotations

from typing import Optional

import numpy as np
import pandas as pd
from jsonargparse import ArgumentParser, Namespace

from svd import cli
from svd.data.moving_digits import MovingDigits
from svd.resources import DIGITS
from svd_tools.digits.drawing import VideoMaker
from svd_tools.digits.motion import brightness_centres


def steps(videos: np.ndarray) -> np.ndarray:
    """Mean motion (x, y) of each video [n t h w 3] in pixels per frame: from first to last frame, [n 2].

    NaN where one of them shows nothing.
    """
    centres = brightness_centres(videos)
    return (centres[:, -1] - centres[:, 0]) / (centres.shape[1] - 1)


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", default=str(DIGITS / "model.safetensors"), type=str, help="The model that the adapters are of.")
    add("--lora", required=True, type=str, help="Adapters, as train.py writes them.")
    add("--scales", nargs="+", default=[0.0, 0.5, 1.0], type=float)
    add("--videos", default=32, type=int, help="For each scale.")
    add("--motion_bucket_id", default=100, type=float)
    return parser


def run(options: Namespace) -> None:
    """The work of the command line."""
    from svd.build import load_pipeline  # MindSpore takes seconds to import

    data = MovingDigits(options.videos, digits=[1], speed=[0.5, 2.5], direction=0, part="test")
    pictures = np.stack([data.load(index).frames[0] for index in range(options.videos)])
    buckets = np.full(options.videos, options.motion_bucket_id)
    rows = {}
    for scale in options.scales:
        pipe = load_pipeline(None, options.checkpoint, lora=options.lora, lora_scale=scale)
        make = VideoMaker(pipe, pipe.config.sampling, min(16, options.videos), seed=0)
        moved = steps(make(pictures, buckets, np.arange(options.videos), f"scale {scale}"))
        right, down = np.nanmean(moved, 0)
        share = (moved[:, 0] > np.abs(moved[:, 1])).mean()
        rows[scale] = {"right, pixels/frame": right, "down": down, "share": share, "dark": np.isnan(moved[:, 0]).mean()}
    print(pd.DataFrame(rows).T.rename_axis("scale").to_string(float_format="%.2f"))


def main(argv: Optional[list[str]] = None, program: str = "lora_direction.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), run, argv)
