"""A small network that judges clips of moving digits: which digits are there, how they move, and features of both."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

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
from svd.records import RecordError, parse_json, record

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
WIDTHS = (16, 32, 64, 96, 128)
"""Channels of the trunk's convolutions, 4 or 5; the second and fourth from the end halve the resolution."""
EARLIER_WIDTHS = (32, 64, 96, 96)
EARLIER_SURE = 0.01
"""Those of judges whose files do not say it, and what SURE says of them, roughly."""
FEATURES = 64
"""Features of a clip. Few enough for a full-rank covariance of 256 clips, four per feature."""


SURE = "probability of 98 % of single digits"
"""Fact about a judge: how sure it is, at least, of nearly all digits that it was tested on."""


class DigitJudge(nn.Cell):
    """Video [b t 3 h w] in [-1, 1] -> what each frame shows and what the clip is, by a trunk of convolutions per frame.

    Convolutions over time see how the trunk's features change at each place, and so motion.

    Args:
        size: h and w, a multiple of CELL.
        widths: channels of the trunk's convolutions, multiples of 8, and the last of 32.
    """

    def __init__(self, size: int = 64, widths: Sequence[int] = WIDTHS):
        super().__init__()
        self.sure = 0.0  # what SURE says, of one that was read from its file
        self.side, self.widths, last = size // CELL, list(widths), widths[-1]
        strides = [2 - (len(widths) - place) % 2 for place in range(len(widths))]
        layers = []
        for c, d, stride in zip([3, *widths], widths, strides):
            layers += [conv2d(c, d, 3, stride), GroupNorm(d, silu=True, groups=8)]
        self.trunk = nn.SequentialCell(*layers)
        self.classes = conv2d(last, CLASSES, 1)
        # Training begins with a digit of a class in one of seven frames, wherever it is.
        self.classes.bias.set_data(initializer(-math.log(7 * self.side**2), (CLASSES,)))
        self.places, self.code = conv2d(last, 16, 1), Linear(16 * self.side**2, 96)
        self.layout = Linear(96, LAYOUT)
        self.swap, self.gelu = SwapAxes(), GELU()
        self.temporal = nn.SequentialCell(ResBlock(last, 64, (3, 1)), GroupNorm(64, silu=True))
        self.features = Linear(96 + 64, FEATURES)
        self.clip = Linear(FEATURES, CLASSES + MOTIONS)

    def construct(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of the digits in each cell of each frame [b t 10 cells]; the layout of each frame [b t 4]; features of
        the clip [b 64]; and a linear layer's prediction from them: logits of the clip's digits, and its motion [b 16].
        """
        b, t, c, h, w = video.shape
        x = self.trunk(halved(ops.reshape(video, (b * t, c, h, w))))
        maps = ops.reshape(self.classes(x), (b, t, CLASSES, -1))
        code = self.code(ops.reshape(self.places(x), (b, t, -1)))
        change = self.temporal(self.swap(ops.reshape(x, (b, t, -1, self.side**2))))  # [b c t cells]
        # Frames near the ends, where convolutions reach beyond the clip, would depend on its length.
        change = change[:, :, 2 : t - 2]
        features = self.features(ops.cat((ops.mean(self.gelu(code), 1), ops.mean(change, (2, 3))), 1))
        return maps, self.layout(code), features, self.clip(features)


def halved(frames: Tensor) -> Tensor:
    """[n c h w] -> [n c h/2 w/2]. Strokes are two pixels wide or more: half of the pixels show them as well, with half
    of the noise.
    """
    n, c, h, w = frames.shape
    x = ops.mean(ops.reshape(frames, (n * c, h // 2, 2, w // 2, 2)), (2, 4))
    return ops.reshape(x, (n, c, h // 2, w // 2))


class FrameJudge(nn.Cell):
    """What a judge sees in single frames: [n 3 h w] in [-1, 1] -> logits of the digits in each cell [n 10 cells]."""

    def __init__(self, judge: DigitJudge):
        super().__init__(auto_prefix=False)
        self.trunk, self.classes = judge.trunk, judge.classes

    def construct(self, frames: Tensor) -> Tensor:
        return ops.reshape(self.classes(self.trunk(halved(frames))), (frames.shape[0], CLASSES, -1))


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


def judge_frames(judge: DigitJudge, frames: np.ndarray, batch_size: int = 128) -> np.ndarray:
    """The probabilities that single frames, uint8 [n h w 3], show each of the digits, [n 10]."""
    cell, results = FrameJudge(judge), []
    for start in range(0, len(frames), batch_size):
        batch = frames[start : start + batch_size]
        filled = batch[np.arange(batch_size) % len(batch)].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        results.append(cell(Tensor(filled)).asnumpy()[: len(batch)])
    odds = np.logaddexp.reduce(np.concatenate(results), -1)
    return np.exp(-np.logaddexp(0, -odds))


def classes_present(digits: list[tuple[int, ...]]) -> np.ndarray:
    """The classes of each clip's digits as a set, bool [n 10]."""
    return np.array([np.isin(np.arange(CLASSES), clip) for clip in digits])


def write_judge(path: Path, judge: DigitJudge, size: int, facts: dict[str, Any]) -> None:
    """Write the weights in float16, with facts about the training as JSON in the metadata."""
    tensors = {f"judge.{p.name}": p.asnumpy().astype(np.float16) for p in judge.get_parameters()}
    made = {"size": str(size), "widths": json.dumps(judge.widths), "facts": json.dumps(facts)}
    save_tensors(path, tensors, {"format": FORMAT, **made})


@dataclass
class _Made:
    """What the metadata of a judge say: pixels of a frame's side, facts about its training, channels of its trunk."""

    size: str
    facts: dict[str, Any]
    widths: list[int] = field(default_factory=lambda: list(EARLIER_WIDTHS))

    def __post_init__(self):
        possible = len(self.widths) in (4, 5) and all(width % 8 == 0 and 8 <= width <= 1024 for width in self.widths)
        if not possible or self.widths[-1] % 32:
            raise ValueError(f"widths cannot be {self.widths}")


def load_judge(path: str | Path, device: str, size: int, source: Optional[str] = "sklearn") -> DigitJudge:
    """A judge for frames of this many pixels and handwriting, or any with None, in float32, on a device that is set up.

    Judges of MNIST have learned scikit-learn's digits, too, but for earlier ones.

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
    widths = {"widths": parse_json(metadata["widths"], where)} if "widths" in metadata else {}
    made = record(_Made, {"size": metadata.get("size"), "facts": facts, **widths}, where)
    if made.size != str(size):
        raise CheckpointError(
            f"{path} judges frames of {made.size} pixels, not of {size}: train one with "
            f"`svd digits train-judge --size={size}`"
        )
    learned = made.facts.get("source", source)
    known = {learned, "sklearn"} if made.facts.get("sklearn_too") else {learned}
    # a folder may have several names
    if source is not None and not any((name == "sklearn") == (source == "sklearn") for name in known):
        raise CheckpointError(
            f"{path} judges handwriting of {learned}, not of {source}: train one with "
            f"`svd digits train-judge --source={source}`"
        )
    judge = place(DigitJudge(size, made.widths).set_train(False), device, ms.float32)
    judge.sure = made.facts.get(SURE, EARLIER_SURE)
    if not isinstance(judge.sure, (int, float)):
        raise RecordError(f"{where}: {SURE} has to be a number")
    file.load({"judge": judge})
    return judge
