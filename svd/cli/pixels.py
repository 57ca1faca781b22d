"""What programs of models in pixel space share: the model, how known frames have an effect, and videos side by side."""

from __future__ import annotations

import math
from typing import Literal, Optional

import numpy as np
from jsonargparse import ArgumentParser, Namespace

from svd.cli import options
from svd.config import ConfigError, VideoDiffusionConfig

Method = Literal["guidance", "replacement"]


def resolve_model(args: Namespace) -> VideoDiffusionConfig:
    """The model of `--model`; raises ConfigError if there is none whose videos can be made and written without more."""
    if not args.model.checkpoint:
        raise ConfigError("--model.checkpoint is missing: the weights, as `svd train` and `svd convert` write them")
    model = options.resolve_model(args.model, VideoDiffusionConfig)
    if model.unet.context_dim is not None:
        raise ConfigError("the model is given text as embeddings, which Python alone takes: docs/video_diffusion.md")
    if model.channels not in (1, 3):
        raise ConfigError(f"frames are written with 1 or 3 channels; those of the model have {model.channels}")
    return model


def side_by_side(videos: np.ndarray) -> np.ndarray:
    """uint8 [b t h w c] -> [t H W 3], as nearly square as the number of videos allows; what is left over is black."""
    b, t, h, w, c = videos.shape
    columns = math.ceil(math.sqrt(b))
    rows = math.ceil(b / columns)
    grid = np.zeros((rows * columns, t, h, w, c), np.uint8)
    grid[:b] = videos
    grid = grid.reshape(rows, columns, t, h, w, c).transpose(2, 0, 3, 1, 4, 5)
    return np.broadcast_to(grid.reshape(t, rows * h, columns * w, c), (t, rows * h, columns * w, 3)).copy()


def add_method(parser: ArgumentParser) -> None:
    """Add `--method` and `--weight`."""
    add = parser.add_argument
    add("--method", type=Method, default="guidance", help="How known frames have an effect: `guidance` moves the "
        "others to where the model reconstructs the known ones; `replacement`, the simpler baseline, only puts them "
        "in.")  # fmt: skip
    add("--weight", type=Optional[float], help="Of guidance: 3 if not given. What is too much makes noise of videos.")


def weight_of(args: Namespace) -> float:
    """The weight of guidance, 0 for replacement; raises ConfigError."""
    from svd.pipelines.given import WEIGHT  # MindSpore takes seconds to import

    if args.method == "replacement":
        if args.weight is not None:
            raise ConfigError("--weight is for --method=guidance: leave it out")
        return 0.0
    weight = WEIGHT if args.weight is None else args.weight
    if not 0 < weight <= 1e4:
        raise ConfigError(f"--weight must be above 0, to 10,000, got {weight}")
    return weight
