"""Previews during training: videos or images of the same inputs and noise each time."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from svd.data.images import find_images, load_image, prepare_image
from svd.data.videos import write_video
from svd.files import atomic_write

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


def prepared_images(images: list[str], height: int, width: int) -> dict[str, np.ndarray]:
    """Images of files, or folders of them, by name; resized at once, as photographs are large. Raises ImageError."""
    return {path.stem: prepare_image(load_image(path), height, width) for path in find_images(images)}


def named_prompts(prompts: list[str]) -> dict[str, str]:
    """Prompts by names that files can have: their number, and how they begin."""
    begin = [re.sub(r"\W+", "-", prompt.lower())[:LONGEST_STEM].strip("-") for prompt in prompts]
    return {f"{number}_{stem}".rstrip("_"): prompt for number, (stem, prompt) in enumerate(zip(begin, prompts))}
