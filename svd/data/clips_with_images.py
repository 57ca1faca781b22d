"""Clips with independent images after their frames, for training on both (arXiv 2204.03458, section 4.3.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import numpy as np

from svd.data.dataset import BadItem, Dataset, check_data
from svd.data.latents_dataset import LatentsDataset

TRIES = 8
"""Other videos that are tried for an image before a clip is given up."""


class ClipsWithImages(Dataset):
    """The clips of a dataset, each with some frames of other videos after its own, chosen at random.

    Args:
        dataset: The clips: `class_path` and `init_args`.
        images: How many images follow each clip. The paper has 8.

    Raises:
        DatasetError: there is no dataset that can be used.
    """

    def __init__(self, dataset: Optional[Dataset] = None, images: int = 4):
        check_data(dataset is not None, "dataset is missing: the clips that images are added to")
        usable = not isinstance(dataset, (ClipsWithImages, LatentsDataset))
        check_data(usable, "dataset must be one of clips, neither of latents nor with images already")
        check_data(images >= 1, f"images must be positive, got {images}: without them, give the dataset itself")
        check_data(len(dataset) > 1, "dataset has one clip, and images are from other ones")
        self.dataset, self.images, self.captioned = dataset, images, dataset.captioned
        self.frames, self.height, self.width = dataset.frames, dataset.height, dataset.width

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def enter_worker(self) -> None:
        self.dataset.enter_worker()

    def load(self, index: int, rng: np.random.Generator) -> Any:
        """A clip whose frames, [t+k h w 3], end with k images."""
        clip = self.dataset.load(index, rng)
        images = [self._image(index, rng) for _ in range(self.images)]
        return replace(clip, frames=np.concatenate([clip.frames, np.stack(images)]))

    def _image(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """A frame of another video; raises BadItem where none of several can be used."""
        for tried in range(1, TRIES + 1):
            other = (index + rng.integers(1, len(self))) % len(self)
            try:
                frames = self.dataset.load(int(other), rng).frames
                return frames[rng.integers(len(frames))]
            except BadItem:
                if tried == TRIES:
                    raise
        raise AssertionError
