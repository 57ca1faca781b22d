"""Measures of continuity, on videos of which the answer is known."""

from itertools import chain

import cv2
import numpy as np
import pytest
from PIL import Image

from svd.metrics.continuity import SCORES, continuity, cuts, measure


def picture(seed: int, side: int = 96) -> np.ndarray:
    """A smooth picture, larger than the frames that are cut from it, uint8 [side side 3]."""
    noise = np.random.default_rng(seed).standard_normal((side, side, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return np.clip(128 + 45 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def pan(seed: int, frames: int, step: int = 1) -> np.ndarray:
    """A window of 48 x 64 that moves over a picture by `step` pixels a frame to the right."""
    whole = picture(seed, 64 + max(32, frames * step))
    return np.stack([whole[8:56, i * step : i * step + 64] for i in range(frames)])


def test_a_pan_is_explained_by_its_motion():
    curves = measure(pan(0, 10, step=2))
    assert curves.motion == pytest.approx(2, abs=0.15)
    assert curves.unexplained.max() < 0.02 and curves.warp_error.max() < 2e-4 and not curves.cuts
    differences = np.diff(pan(0, 10, step=2).astype(float), axis=0)
    np.testing.assert_allclose(curves.step, np.sqrt(np.mean(differences**2, (1, 2, 3))), rtol=1e-5)


def test_the_error_of_warping_is_that_of_lai():
    """Where flow and return agree, with the flow of OpenCV, written out."""
    a, b = pan(1, 2, step=3)
    a[10:30, 10:30], b[10:30, 16:36] = (picture(9)[:20, :20],) * 2  # covers what was seen, and shows what was not
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (a, b)]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there, back = dis.calc(*greys, None), dis.calc(*greys[::-1], None)
    errors = []
    for y in range(48):
        for x in range(64):
            at = np.float32([[x + there[y, x, 0]]]), np.float32([[y + there[y, x, 1]]])
            value, returned = (cv2.remap(image, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0, 0]
                               for image in (b.astype(np.float32) / 255, back))  # fmt: skip
            lengths = (there[y, x] ** 2).sum() + (returned**2).sum()
            if ((there[y, x] + returned) ** 2).sum() <= 0.01 * lengths + 0.5:
                errors.append(np.mean((a[y, x] / 255 - value) ** 2))
    assert 1000 < len(errors) < 48 * 64 - 50
    assert measure([a, b]).warp_error[0] == pytest.approx(np.mean(errors), rel=1e-3)


def test_cuts_are_found_and_motion_is_none():
    video = np.concatenate([pan(2, 8), pan(3, 7, step=4), pan(4, 6)])
    assert measure(video).cuts == [8, 15]
    assert measure(pan(5, 8, step=6)).cuts == []
    restless = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    assert measure(restless).unexplained.min() > 0.3 and measure(restless).cuts == [], "the same throughout"
    dark = (np.concatenate([pan(2, 8), pan(3, 7)]) // 8).astype(np.uint8)
    assert measure(dark).cuts == [8], "whatever the contrast"


def test_cuts_by_what_is_unexplained():
    assert cuts(np.array([0.01, 0.02, 0.3, 0.02, 0.01])) == [3]
    assert cuts(np.array([0.01, 0.02, 0.14, 0.02, 0.01])) == [], "too little"
    assert cuts(np.array([0.1, 0.1, 0.4, 0.1, 0.1])) == [], "four times as much as the neighbours"
    assert cuts(np.array([0.9, 0.01, 0.01, 0.01, 0.9])) == [1, 5], "at the ends"
    assert cuts(np.array([0.9])) == [1] and cuts(np.zeros(3)) == []


def test_a_jump_at_a_seam_is_told_by_the_clips_own_steps():
    smooth = pan(6, 12)
    assert measure(smooth, seams=[6]).scores["seam_jump"] == pytest.approx(1, abs=0.1)
    jumped = np.concatenate([smooth[:6], smooth[9:]])  # four steps at once
    steps = measure(jumped).step
    assert measure(jumped, seams=[6]).scores["seam_jump"] == pytest.approx(steps[5] / np.delete(steps, 5).max())
    assert measure(jumped, seams=[6]).scores["seam_jump"] > 2
    assert np.isnan(measure(jumped).scores["seam_jump"])


def test_drift_of_the_picture_and_of_motion():
    """In the second half with less contrast and colour, blurred, and still."""
    video = np.concatenate([pan(7, 8, step=2), np.repeat(pan(7, 9, step=2)[-1:], 8, 0)]).astype(np.float32)
    grey = video.mean(-1, keepdims=True)
    changed = video.copy()
    changed[8:] = 64 + 0.25 * grey[8:] + 0.25 * video[8:]
    changed[8:] = np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in changed[8:]])
    scores = measure(changed.astype(np.uint8)).scores
    assert scores["contrast_drift"] < -0.4 and scores["saturation_drift"] < -0.6 and scores["sharpness_drift"] < -0.5
    assert scores["motion_drift"] < -0.9 and abs(scores["brightness_drift"]) < 0.1
    same = measure(np.repeat(pan(7, 1), 8, 0)).scores
    assert all(same[f"{name}_drift"] == 0 for name in ("brightness", "contrast", "saturation", "sharpness"))
    assert np.isnan(same["motion_drift"]) and np.isnan(same["motion_aware_warp_error"]), "nothing moves"


def test_identity_is_what_the_judge_says_in_pieces():
    """Of a long video, frame by frame as it is read."""
    seen = []

    def judge(frames, first):
        seen.append((len(frames), first[0, 0, 0]))
        return np.linspace(1, 0, 40)[[frame[0, 0, 0] for frame in frames]]

    video = (np.full((20, 20, 3), i, np.uint8) for i in range(40))
    curves = measure(video, judge=judge)
    assert seen == [(16, 0), (16, 0), (8, 0)]
    np.testing.assert_allclose(curves.identity, np.linspace(1, 0, 40))
    assert curves.scores["identity_first_quarter"] > 0.85 > 0.15 > curves.scores["identity_last_quarter"]
    assert measure(pan(0, 3)).identity is None


def test_only_two_frames_and_a_piece_for_the_judge_are_kept():
    alive = []

    def frames():
        import weakref

        for i in range(200):
            frame = np.full((16, 16, 3), i % 256, np.uint8)
            alive.append(weakref.ref(frame))
            yield frame

    most = 0

    def counted(source):
        nonlocal most
        for frame in source:
            most = max(most, sum(ref() is not None for ref in alive[-60:]))
            yield frame

    assert len(measure(counted(frames())).step) == 199
    assert most <= 40


@pytest.mark.parametrize(
    ("video", "seams", "what"),
    [
        (np.zeros((1, 16, 16, 3), np.uint8), (), "a has 1 frames: a video has two or more"),
        (np.zeros((0, 16, 16, 3), np.uint8), (), "a has 0 frames"),
        (np.zeros((3, 16, 16, 3), np.uint8), (3,), "a has no frames before and after seam 3: seams are 1 to 2"),
        (np.zeros((3, 16, 16, 3), np.uint8), (0,), "seam 0"),
        (np.zeros((3, 15, 16, 3), np.uint8), (), r"a: frame 0 is uint8 \[15, 16, 3\]; it takes uint8"),
        (np.zeros((3, 16, 16, 3)), (), r"a: frame 0 is float64"),
        (np.zeros((3, 16, 16), np.uint8), (), r"\[16, 16\]"),
        (
            chain(np.zeros((3, 16, 16, 3), np.uint8), np.zeros((1, 16, 20, 3), np.uint8)),
            (),
            r"frame 3 is \[16, 20, 3\]",
        ),
    ],
)
def test_videos_that_cannot_be_used(video, seams, what):
    with pytest.raises(ValueError, match=what):
        continuity({"a": video}, seams)


def test_the_report_of_several_videos(tmp_path):
    """Means, the sum of cuts, and the largest jump; a plot of videos of different lengths."""
    videos = [pan(0, 8), np.concatenate([pan(2, 8), pan(3, 7, step=4)])]
    report = continuity(videos, seams=[4], judge=lambda frames, first: np.ones(len(frames)))
    assert list(report.curves) == ["0", "1"] and report.scores.keys() == SCORES.keys()
    each = [curves.scores for curves in report.curves.values()]
    assert (
        report.scores["frames"] == 11.5 and report.scores["cuts"] == 1 and report.scores["identity_last_quarter"] == 1
    )
    assert report.scores["motion"] == pytest.approx((each[0]["motion"] + each[1]["motion"]) / 2)
    assert report.scores["seam_jump"] == max(scores["seam_jump"] for scores in each)
    report.plot(tmp_path / "drift.png")
    with Image.open(tmp_path / "drift.png") as plotted:
        assert plotted.size == (1200, 800)
    with pytest.raises(ValueError, match="no video was given"):
        continuity([])
