"""From uint8 frames to the value range of the networks."""

import numpy as np

from svd.data.video_dataset import Clip


def pixels(clips: list[Clip]) -> np.ndarray:
    """The frames of b clips as a video in [-1, 1], float32 [b t 3 h w]."""
    video = np.stack([clip.frames for clip in clips]).transpose(0, 1, 4, 2, 3)
    return video.astype(np.float32) / 127.5 - 1
