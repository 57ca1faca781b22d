"""What videos are measured by: on videos whose scores are known."""

import math

import numpy as np
import pytest

from svd.data.moving_digits import MovingDigits
from svd_tools.digits.judge import Judgement
from svd_tools.digits.scores import (
    BEST_PSNR,
    TITLES,
    Clips,
    confusion,
    fastest,
    motion_control,
    psnr,
    right_by_frame,
    scores,
    title,
)


@pytest.fixture(scope="module")
def clips() -> Clips:
    return Clips.of(MovingDigits(24, part="test"))


def judged_truly(clips: Clips, speeds: np.ndarray, features: np.ndarray) -> Judgement:
    """By a judge without fault."""
    return Judgement(np.repeat(clips.present[:, None], clips.videos.shape[1], 1), features, speeds)


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((24, 4))


def test_real_clips_are_without_fault(clips, features):
    judged = judged_truly(clips, clips.speeds, features)
    found = scores(clips.videos, judged, clips, judged)
    assert set(found) == {name for name in TITLES if "{" not in name} | {
        f"{name}_{n}" for name in ("right_first", "right", "kept") for n in (1, 2)
    }
    # A mean of equal numbers need not be that number: how it is rounded depends on the processor.
    assert [found["psnr_mean"], found["psnr_median"]] == pytest.approx([BEST_PSNR] * 2)
    assert found["right_1"] == found["right_2"] == found["kept_1"] == found["kept_2"] == 1
    assert found["speed_error_centres"] < 0.05 and found["speed_error_judge"] == 0
    assert found["bucket_correlation_centres"] > 0.99
    assert found["bucket_correlation_judge"] == pytest.approx(1)
    assert found["deviation_mean"] < 0.1 and found["lost"] == 0
    assert found["frechet"] < 1e-9 and found["saturation"] == 0
    assert found["right_first_1"] == found["right_first_2"] == 1


def test_a_picture_that_stands_still(clips, features):
    still = np.repeat(clips.videos[:, :1], 14, 1)
    other = judged_truly(clips, clips.speeds, features + 3)
    found = scores(still, judged_truly(clips, np.zeros(24), features), clips, other)
    assert found["speed_error_centres"] == pytest.approx(clips.speeds[clips.count == 1].mean())
    assert found["speed_error_judge"] == pytest.approx(clips.speeds.mean())
    assert found["bucket_correlation_centres"] == found["bucket_correlation_judge"] == 0
    assert found["deviation_mean"] < 0.01
    assert found["frechet"] == pytest.approx(4 * 9)


def test_faults_are_counted_for_clips_of_one_and_of_two(clips, features):
    one, two = (np.flatnonzero(clips.count == n) for n in (1, 2))
    assert len(one) > 4 and len(two) > 4
    judged = judged_truly(clips, clips.speeds, features)
    digits = judged.digits.copy()
    digits[one[0], -1] = ~digits[one[0], -1]  # another digit in the end
    digits[two[0]] = ~digits[two[0]]  # others, all the time
    digits[two[1]] = False  # none, all the time
    videos = clips.videos.copy()
    videos[one[1], 5] = 0
    videos[0, 3, 1, 2] = (0, 51, 30)
    found = scores(videos, Judgement(digits, features, clips.speeds), clips, judged)
    assert found["right_1"] == found["kept_1"] == pytest.approx(1 - 1 / len(one))
    assert found["right_2"] == pytest.approx(1 - 2 / len(two))
    assert found["kept_2"] == pytest.approx(1 - 1 / len(two))
    assert found["lost"] == pytest.approx(1 / len(one)) and found["saturation"] == pytest.approx(0.2)
    assert found["right_first_1"] == 1 and found["right_first_2"] == pytest.approx(1 - 2 / len(two))
    curves = right_by_frame(Judgement(digits, features, clips.speeds), clips)
    assert curves["1"] == pytest.approx([1] * 13 + [1 - 1 / len(one)]) and len(curves["2"]) == 14
    assert (curves["1"][-1], curves["2"][-1]) == (found["right_1"], found["right_2"])
    assert math.isfinite(found["deviation_mean"]) and math.isfinite(found["speed_error_centres"])


def test_what_is_taken_for_what(clips, features):
    """Of clips of one digit: another, none or several in the last frame; what frames before it show does not count."""
    one = np.flatnonzero(clips.count == 1)
    digits = np.repeat(clips.present[:, None], 14, 1)
    digits[:, 0] = False
    truth = clips.present[one].argmax(-1)
    digits[one[0], -1] = np.arange(10) == (truth[0] + 1) % 10
    digits[one[1], -1], digits[one[2], -1] = False, True
    table = confusion(Judgement(digits, features, clips.speeds), clips)
    assert table.columns.tolist() == [*map(str, range(10)), "none", "several"] and table.to_numpy().sum() == len(one)
    assert table.loc[truth[0], str((truth[0] + 1) % 10)] >= 1
    assert table.loc[truth[1], "none"] == table["none"].sum() == 1
    assert table.loc[truth[2], "several"] == table["several"].sum() == 1
    assert sum(table.loc[digit, str(digit)] for digit in range(10)) == len(one) - 3


def test_digits_of_other_sizes_turn_at_the_same_edges(features):
    """Their squares are larger, and their paths shorter."""
    clips = Clips.of(MovingDigits(24, digits=[1], part="test", natural=1.0, speed=[2.0, 4.0]))
    judged = judged_truly(clips, clips.speeds, features)
    assert len(set(clips.sides)) > 5
    assert scores(clips.videos, judged, clips, judged)["deviation_mean"] < 0.6


def test_a_path_that_shakes_deviates(clips, features):
    """All frames moved by 3 pixels to either side, in turns."""
    shift = 3 * (-1) ** np.arange(14)
    videos = np.stack([np.roll(clips.videos[:, i], shift[i], axis=2) for i in range(14)], 1)
    judged = judged_truly(clips, clips.speeds, features)
    assert 2.3 < scores(videos, judged, clips, judged)["deviation_median"] < 3.2


def test_without_clips_of_one_there_are_no_centres(features):
    clips = Clips.of(MovingDigits(6, digits=[2], part="test", frames=4))
    judged = judged_truly(clips, clips.speeds, features[:6])
    found = scores(clips.videos, judged, clips, judged)
    centres = ("speed_error_centres", "bucket_correlation_centres", "deviation_mean", "deviation_median", "lost")
    assert all(math.isnan(found[name]) for name in centres)
    assert "right_1" not in found and found["right_2"] == 1


def test_psnr():
    picture = np.full((2, 4, 4, 3), 100, np.uint8)
    assert psnr(picture + np.uint8(10), picture) == pytest.approx(20 * np.log10(25.5))


def test_speed_that_follows_the_bucket_is_told_from_one_that_does_not():
    """Picture 0, of one digit, moves faster with the bucket, and picture 1, of two, slower; none counts for both."""
    buckets, pictures = np.tile([0, 100, 200], 2), np.repeat([0, 1], 3)
    videos = np.zeros((6, 4, 40, 40, 3), np.uint8)
    for i, speed in enumerate([0, 1, 3, 9, 9, 9]):
        for t in range(4):
            videos[i, t, 10:18, t * speed : t * speed + 8] = 255
    judged = Judgement(np.zeros((6, 4, 10), bool), np.zeros((6, 4)), np.array([0.1, 1.2, 3.3, 2.0, 1.0, 0.5]))
    table, correlations = motion_control(videos, judged, buckets, pictures, single=pictures == 0)
    assert table.index.tolist() == [0, 100, 200]
    np.testing.assert_allclose(table["centres"], [0, 1, 3], atol=1e-6)
    np.testing.assert_allclose(table["judge"], [1.05, 1.1, 1.9])
    assert correlations["centres_each_picture"] == correlations["centres_all"] == pytest.approx(1)
    assert correlations["judge_each_picture"] == pytest.approx(0)
    assert correlations["judge_all"] == pytest.approx(0.2390457)
    assert math.isnan(fastest(table)["judge"])
    assert fastest(table.rename(index={200: 255})) == pytest.approx({"centres": 0.75, "judge": 0.475})


def test_titles():
    assert title("right_2") == "last frame shows the picture's digits, clips of 2"
    assert title("psnr_mean") == TITLES["psnr_mean"]
