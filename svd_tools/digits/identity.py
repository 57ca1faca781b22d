"""Whether frames show the digits of their video's first frame, for measures of continuity."""

from __future__ import annotations

import numpy as np

from svd.metrics.continuity import CHUNK, Judge
from svd_tools.digits.judge import DigitJudge, judge_videos


def identity_judge(judge: DigitJudge) -> Judge:
    """Return (frames uint8 [n h w 3], first [h w 3]) -> 1 for a frame that shows the first one's digits, and no others,
    0 for all others, [n]; where the first one shows none, all are 0.

    All calls share a graph, of one clip.
    """

    def alike(frames: np.ndarray, first: np.ndarray) -> np.ndarray:
        # What a frame shows does not depend on the other frames of its clip.
        clip = np.concatenate([first[None], frames, np.repeat(frames[-1:], max(CHUNK - len(frames), 0), 0)])
        digits = judge_videos(judge, clip[None], batch_size=1).digits[0]
        return ((digits == digits[0]).all(-1) & digits[0].any())[1 : len(frames) + 1].astype(np.float64)

    return alike
