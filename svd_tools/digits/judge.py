"""A small network that judges clips of moving digits: which digits are there, how they move, and features of both."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import initializer

from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_files import save_tensors
from svd.checkpoints.tensor_header import CheckpointError
from svd.data.handwriting import CLASSES
from svd.layers.basic import GELU, GroupNorm, Linear, SwapAxes, conv2d
from svd.layers.resblock import ResBlock
from svd.placement import place
from svd.records import parse_json, record

FORMAT = "svd-mindspore-digit-judge"
"""Format name in the metadata of a judge's file."""
MOTIONS = 6
"""Numbers about a clip's motion, all in pixels per frame: the speed of its digits, its parts along x and along y (means
of |dx| and |dy|), the displacement of the digits' middle (x, y), and how much a step differs from the one before."""
LAYOUT = 4
"""Numbers about where a frame's digits are: their middle (x, y), and their mean distance from it along x and y."""
MIN_FRAMES = 5
"""Least frames of a clip whose motion can be judged."""
CELL = 8
"""Pixels of a cell's height and width; digits are predicted per cell."""
FEATURES = 64
"""Features of a clip. Few enough for a full-rank covariance of 256 clips, four per feature."""


class DigitJudge(nn.Cell):
    """Video [b t 3 h w] in [-1, 1] -> what each frame shows and what the clip is, by a trunk of convolutions per frame.

    Convolutions over time see how the trunk's features change at each place, and so motion.

    Args:
        size: h and w, a multiple of CELL.
    """

    def __init__(self, size: int = 64):
        super().__init__()
        self.side = size // CELL
        widths, strides = (3, 32, 64, 96, 96), (2, 1, 2, 1)
        layers = []
        for c, d, stride in zip(widths, widths[1:], strides):
            layers += [conv2d(c, d, 3, stride), GroupNorm(d, silu=True, groups=8)]
        self.trunk = nn.SequentialCell(*layers)
        self.classes = conv2d(96, CLASSES, 1)
        # Training begins with a digit of a class in one of seven frames, wherever it is.
        self.classes.bias.set_data(initializer(-math.log(7 * self.side**2), (CLASSES,)))
        self.places, self.code = conv2d(96, 16, 1), Linear(16 * self.side**2, 96)
        self.layout = Linear(96, LAYOUT)
        self.swap, self.gelu = SwapAxes(), GELU()
        self.temporal = nn.SequentialCell(ResBlock(96, 64, (3, 1)), GroupNorm(64, silu=True))
        self.features = Linear(96 + 64, FEATURES)
        self.clip = Linear(FEATURES, CLASSES + MOTIONS)

    def construct(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of the digits in each cell of each frame [b t 10 cells]; the layout of each frame [b t 4]; features of
        the clip [b 64]; and a linear layer's prediction from them: logits of the clip's digits, and its motion [b 16].
        """
        b, t, c, h, w = video.shape
        # Strokes are three pixels wide or more: half of the pixels show them as well, with half of the noise.
        x = ops.mean(ops.reshape(video, (b * t * c, h // 2, 2, w // 2, 2)), (2, 4))
        x = self.trunk(ops.reshape(x, (b * t, c, h // 2, w // 2)))
        maps = ops.reshape(self.classes(x), (b, t, CLASSES, -1))
        code = self.code(ops.reshape(self.places(x), (b, t, -1)))
        change = self.temporal(self.swap(ops.reshape(x, (b, t, -1, self.side**2))))  # [b c t cells]
        # Frames near the ends, where convolutions reach beyond the clip, would depend on its length.
        change = change[:, :, 2 : t - 2]
        features = self.features(ops.cat((ops.mean(self.gelu(code), 1), ops.mean(change, (2, 3))), 1))
        return maps, self.layout(code), features, self.clip(features)


@dataclass(frozen=True)
class Judgement:
    """Judgement of n clips."""

    digits: np.ndarray
    """Which digits each frame shows, bool [n t 10]."""
    features: np.ndarray
    """For the Frechet distance, float32 [n 64]."""
    speed: np.ndarray
    """Of the digits, pixels per frame, float32 [n]."""

    def shows(self, digits: np.ndarray, frame: int) -> np.ndarray:
        """Whether this frame shows these digits and no others: [n 10] -> [n]"""
        return (self.digits[:, frame] == digits).all(-1)


def judge_videos(judge: DigitJudge, videos: np.ndarray, batch_size: int = 16) -> Judgement:
    """Judge clips, uint8 [n t h w 3]; all batches have one size, and so share a graph.

    Raises:
        ValueError: they are shorter than MIN_FRAMES.
    """
    if videos.shape[1] < MIN_FRAMES:
        raise ValueError(f"the judge needs clips of at least {MIN_FRAMES} frames, got {videos.shape[1]}")
    results = []
    for start in range(0, len(videos), batch_size):
        batch = videos[start : start + batch_size]
        # The padding of the last batch is dropped.
        filled = batch[np.arange(batch_size) % len(batch)].transpose(0, 1, 4, 2, 3).astype(np.float32) / 127.5 - 1
        results.append([result.asnumpy()[: len(batch)] for result in judge(Tensor(filled))])
    maps, _, features, clip = (np.concatenate(parts) for parts in zip(*results))
    return Judgement(np.logaddexp.reduce(maps, -1) > 0, features, clip[:, CLASSES])


def classes_present(digits: list[tuple[int, ...]]) -> np.ndarray:
    """The classes of each clip's digits as a set, bool [n 10]."""
    return np.array([np.isin(np.arange(CLASSES), clip) for clip in digits])


def write_judge(path: Path, judge: DigitJudge, size: int, facts: dict[str, Any]) -> None:
    """Write the weights in float16, with facts about the training as JSON in the metadata."""
    tensors = {f"judge.{p.name}": p.asnumpy().astype(np.float16) for p in judge.get_parameters()}
    save_tensors(path, tensors, {"format": FORMAT, "size": str(size), "facts": json.dumps(facts)})


@dataclass
class _Made:
    """What the metadata of a judge say: pixels of a frame's side, and facts about its training."""

    size: str
    facts: dict[str, Any]


def load_judge(path: str | Path, device: str, size: int, source: str = "sklearn") -> DigitJudge:
    """A judge for frames of this many pixels and handwriting, in float32, on a device that is set up.

    Raises:
        CheckpointError: the file is missing, damaged, no judge, or a judge of frames of another size or of
            scikit-learn's handwriting where another is requested, or vice versa.
        RecordError: its metadata are damaged.
    """
    file = Checkpoint(path)
    metadata = file.metadata
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no judge of digits: train one with `svd digits train-judge`")
    where = f"{path}: its metadata"
    facts = parse_json(metadata.get("facts", ""), where)
    made = record(_Made, {"size": metadata.get("size"), "facts": facts}, where)
    if made.size != str(size):
        raise CheckpointError(
            f"{path} judges frames of {made.size} pixels, not of {size}: train one with "
            f"`svd digits train-judge --size={size}`"
        )
    learned = made.facts.get("source", source)
    if (learned == "sklearn") != (source == "sklearn"):  # a folder may have several names
        raise CheckpointError(
            f"{path} judges handwriting of {learned}, not of {source}: train one with "
            f"`svd digits train-judge --source={source}`"
        )
    judge = place(DigitJudge(size).set_train(False), device, ms.float32)
    file.load({"judge": judge})
    return judge
