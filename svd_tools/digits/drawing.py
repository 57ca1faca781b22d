"""Generating videos from pictures of digits, and showing them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import numpy as np
from tqdm import tqdm

from svd.config import SamplingConfig
from svd.files import atomic_write

if TYPE_CHECKING:
    from svd.pipelines.image_to_video import ImageToVideo

SHEET_CLIPS, SHEET_FRAMES, GIF_SIDE = 6, 14, 6
GREY = 64
"""Brightness of the lines between frames."""


class VideoMaker:
    """Generates videos in batches of one size, with one graph per network.

    A clip's noise is determined by the seed and the clip's number, whatever its batch and its bucket. `image_only`
    leaves the temporal layers out.
    """

    def __init__(
        self, pipe: ImageToVideo, settings: SamplingConfig, batch_size: int, seed: int, image_only: bool = False
    ):
        self.pipe, self.batch_size, self.seed, self.image_only = pipe, batch_size, seed, image_only
        # All frames of a clip are decoded at once, whatever the free memory: the same result on every machine.
        self.settings = dataclasses.replace(
            settings, decode_chunk_size=settings.decode_chunk_size or settings.num_frames
        )

    def __call__(
        self, pictures: np.ndarray, buckets: np.ndarray, numbers: np.ndarray, what: str, kept: Optional[Path] = None
    ) -> np.ndarray:
        """Pictures uint8 [n h w 3], their motion buckets [n] and clips' numbers [n] -> uint8 [n t h w 3].

        Batches are written to the folder `kept`, and read if they are there already.
        """

        def draw(rows: np.ndarray) -> np.ndarray:
            return self._batch(pictures[rows], buckets[rows], numbers[rows])

        return in_batches(draw, len(pictures), self.batch_size, what, kept)

    def _batch(self, pictures: np.ndarray, buckets: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        options = {"settings": self.settings, "image_only": self.image_only, "progress": False}
        seeds = [(self.seed, int(number)) for number in numbers]
        latents = self.pipe(pictures, motion_bucket_id=buckets, seed=seeds, output="latents", **options)
        videos = [self.pipe.decode(clip[None], **options)[0] for clip in latents]
        return np.round(255 * np.stack(videos)).astype(np.uint8)


def in_batches(
    draw: Callable[[np.ndarray], np.ndarray], n: int, batch_size: int, what: str, kept: Optional[Path] = None
) -> np.ndarray:
    """The videos of rows 0 to n - 1, uint8 [n t h w 3], which `draw` makes of the rows of a batch.

    Batches have one size, and so share a graph. They are written to the folder `kept`, and read if they are there.
    """
    videos = []
    with tqdm(total=n, desc=what, unit="video") as bar:
        for start in range(0, n, batch_size):
            rows = np.minimum(np.arange(start, start + batch_size), n - 1)  # the last batch is padded
            path = kept and kept / f"{start:06d}.npz"
            drawn = path and _read_kept(path)
            if drawn is None:
                drawn = draw(rows)[: n - start]
                if path:
                    with atomic_write(path, need=drawn.nbytes) as aside, open(aside, "wb") as file:
                        np.savez_compressed(file, videos=drawn)
            videos.append(drawn)
            bar.update(len(drawn))
    return np.concatenate(videos)


def _read_kept(path: Path) -> Optional[np.ndarray]:
    """Videos that have been written; None if there are none, or what is there is damaged."""
    if not path.is_file():
        return None
    try:
        with np.load(path) as file:
            return file["videos"]
    except Exception:  # zipfile and numpy raise anything on damaged files
        return None


def contact_sheet(real: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """A picture [y x 3] of some clips' frames side by side: each real clip, and under it the generated one."""
    step = math.ceil(real.shape[1] / SHEET_FRAMES)
    pairs = np.stack([real, generated], 1)[:SHEET_CLIPS, :, ::step]  # [n 2 t h w 3]
    framed = np.pad(pairs, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=GREY)
    n, _, t, h, w, _ = framed.shape
    return framed.transpose(0, 1, 3, 2, 4, 5).reshape(2 * n * h, t * w, 3)


def grid(videos: np.ndarray) -> np.ndarray:
    """Videos [n t h w 3] beside and below each other, as many as make full rows: [t y x 3]"""
    columns = min(GIF_SIDE, len(videos))
    rows = min(GIF_SIDE, len(videos) // columns)
    _, t, h, w, _ = videos.shape
    tiles = videos[: rows * columns].reshape(rows, columns, t, h, w, 3)
    return tiles.transpose(2, 0, 3, 1, 4, 5).reshape(t, rows * h, columns * w, 3)
