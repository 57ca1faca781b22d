"""Previews during training: videos or images of the same inputs and noise each time, or clips as they are decoded."""

import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PIL import Image

from svd.autoencoder.autoencoder import Autoencoder
from svd.data.dataset import BadItem, Dataset
from svd.data.images import find_images, load_image, prepare_image
from svd.data.video_dataset import Clip, pixels
from svd.data.videos import write_video
from svd.files import atomic_write
from svd.seeds import Purpose, generator

LONGEST_STEM = 40
"""Characters of a prompt in the names of files."""


class Preview:
    """Makes a video or an image of each input with the pipeline's current weights.

    Args:
        pipe: the pipeline, which may share its networks with a training.
        inputs: its inputs, images or prompts, by the names that files get.
        folder: to write to; created if needed.
        suffix: of videos: gif or mp4; images are png.
        sampling: arguments of the pipeline.
    """

    def __init__(
        self, pipe: Callable[..., np.ndarray], inputs: Mapping[str, Any], folder: Path, suffix: str, sampling: dict
    ):
        self.pipe, self.inputs, self.folder, self.suffix, self.sampling = pipe, inputs, folder, suffix, sampling

    def __call__(self, name: str) -> list[Path]:
        """Write folder/NAME_INPUT.suffix for each input; returns the paths."""
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for stem, given in self.inputs.items():
            made = self.pipe(given, progress=False, **self.sampling)
            paths.append(self.folder / f"{name}_{stem}.{self.suffix if made.ndim == 4 else 'png'}")
            if made.ndim == 4:
                write_video(paths[-1], made, self.pipe.config.sampling.fps)
            else:
                with atomic_write(paths[-1]) as aside:
                    Image.fromarray(made).save(aside, format="png")
        return paths


class ReconstructionPreview:
    """Shows clips of a data set, each beside what the decoder makes of its latents.

    Args:
        autoencoder: which may share its networks with a training.
        clips: from `some_clips`.
        folder: to write to; created if needed.
        suffix: gif or mp4.
    """

    def __init__(self, autoencoder: Autoencoder, clips: list[Clip], folder: Path, suffix: str):
        self.autoencoder, self.clips, self.folder, self.suffix = autoencoder, clips, folder, suffix

    def __call__(self, name: str) -> list[Path]:
        """Write folder/NAME_NUMBER.suffix for each clip; returns the paths."""
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, clip in enumerate(self.clips):
            paths.append(self.folder / f"{name}_{number}.{self.suffix}")
            both = np.concatenate((clip.frames, reconstructed(self.autoencoder, clip)), axis=2)
            write_video(paths[-1], both, clip.fps)
        return paths


def reconstructed(autoencoder: Autoencoder, clip: Clip, chunk_size: Optional[int] = None) -> np.ndarray:
    """The frames of a clip, encoded and decoded, so many at a time: uint8 [t h w 3]."""
    video = autoencoder.decode(autoencoder.encode(pixels([clip])), chunk_size)[0].transpose(0, 2, 3, 1)
    return np.round((np.clip(video, -1, 1) + 1) * 127.5).astype(np.uint8)


def some_clips(dataset: Dataset, count: int, seed: int) -> list[Clip]:
    """Clips of a data set, in the order of its items and over and over; the seed decides where in their videos they
    begin. Those that cannot be used are left out; fewer, if there is none that can be.
    """
    found, failed = [], 0
    for sample in itertools.count():
        if len(found) == count or failed == len(dataset):
            return found
        try:
            index = sample % len(dataset)
            found.append(dataset.load(index, generator(seed, sample, Purpose.DATA)))
            failed = 0
        except BadItem:
            failed += 1


def prepared_images(images: list[str], height: int, width: int) -> dict[str, np.ndarray]:
    """Images of files, or folders of them, by name; resized at once, as photographs are large. Raises ImageError."""
    return {path.stem: prepare_image(load_image(path), height, width) for path in find_images(images)}


def named_prompts(prompts: list[str]) -> dict[str, str]:
    """Prompts by names that files can have: their number, and how they begin."""
    begin = [re.sub(r"\W+", "-", prompt.lower())[:LONGEST_STEM].strip("-") for prompt in prompts]
    return {f"{number}_{stem}".rstrip("_"): prompt for number, (stem, prompt) in enumerate(zip(begin, prompts))}
