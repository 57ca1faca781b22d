"""Evaluation of words to moving digits: real clips are right, and every prompt gets its video."""

import numpy as np
from device import DEVICE

from svd.data.moving_digits import MovingDigits
from svd.resources import DIGITS
from svd_tools.digits.judge import judge_videos, load_judge
from svd_tools.digits.words import main, make, scores


def test_clips_of_their_captions_are_right(eager):
    judge = load_judge(DIGITS / "judge.safetensors", DEVICE, 64)
    data = MovingDigits(24, frames=9, digits=[1], part="test")
    clips = [data.load(index) for index in range(24)]
    videos = np.stack([clip.frames for clip in clips])
    judged = judge_videos(judge, videos)
    found = scores(videos, judged, clips)
    assert min(found["right_first"], found["right_last"]) > 0.8 and found["lost"] == 0
    assert found["right_first"] == found["right"][0] and len(found["right"]) == 9
    assert found["speed_slow"] < found["speed_neither"] < found["speed_fast"]
    assert found["deviation_median"] < 0.5
    still = np.repeat(videos[:, -1:], 9, 1)
    wrong = scores(still, judge_videos(judge, still[::-1]), clips)
    assert wrong["right_first"] < 0.5 and "deviation_median" in wrong
    two = scores(videos, judged, [MovingDigits(digits=[2]).load(index) for index in range(24)])
    assert "deviation_median" not in two and two["right_first"] < 0.5


def test_every_prompt_has_a_video_and_noise_of_its_own():
    calls = []

    def pipe(prompts: list[str], seed: list, progress: bool) -> np.ndarray:
        calls.append((prompts, seed))
        return np.array([len(prompt) for prompt in prompts], np.uint8).reshape(-1, 1, 1, 1, 1)

    assert make(pipe, ["a", "ab", "abc"], 7, 2).ravel().tolist() == [1, 2, 3]
    assert calls == [(["a", "ab"], [(7, 0), (7, 1)]), (["abc", "abc"], [(7, 2), (7, 2)])]


def test_a_checkpoint_that_is_not_there(tmp_path, capsys):
    assert main(["--checkpoint", str(tmp_path / "none.safetensors"), "--out_dir", str(tmp_path / "out")]) == 2
    assert "none.safetensors" in capsys.readouterr().err
