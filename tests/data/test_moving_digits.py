"""Clips of moving digits: what is in them, where it is, and where the handwriting is from."""

import gzip
import pickle

import cv2
import numpy as np
import pytest

from svd.data.dataset import DatasetError
from svd.data.handwriting import Pen, drawn, handwriting
from svd.data.moving_digits import MovingDigits, describe

ROOM = 64 - 28


def centroids(frames: np.ndarray) -> np.ndarray:
    """The middle of the light in each frame, (x, y) [t 2]."""
    light = frames[..., 0].astype(float)
    y, x = np.indices(light.shape[1:])
    return np.stack([(light * axis).sum((1, 2)) / light.sum((1, 2)) for axis in (x, y)], 1)


def write_idx(path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    (gzip.open if path.suffix == ".gz" else open)(path, "wb").write(header + array.astype(np.uint8).tobytes())


def test_a_clip_follows_from_its_number_and_the_seed():
    a, b = (MovingDigits(clips=50, seed=seed) for seed in (3, 4))
    again = pickle.loads(pickle.dumps(a))
    for index in (0, 49):
        np.testing.assert_array_equal(a.load(index).frames, again.load(index, np.random.default_rng(9)).frames)
        assert not np.array_equal(a.load(index).frames, b.load(index).frames)
    assert len(a) == 50 and not np.array_equal(a.load(0).frames, a.load(1).frames)


@pytest.mark.parametrize(
    ("digits", "bucket", "caption"),
    [
        ((3,), 127, "a three"),
        ((8,), 127, "an eight"),
        ((8,), 84, "a slow eight"),
        ((7, 2), 85, "a seven and a two"),
        ((7, 2), 170, "a fast seven and a fast two"),
        ((1, 8, 0), 127, "a one, an eight and a zero"),
    ],
)
def test_captions(digits, bucket, caption):
    assert describe(digits, bucket) == caption


def test_clips_have_captions():
    clips = [MovingDigits(clips=9).load(index) for index in range(9)]
    assert [clip.caption for clip in clips] == [describe(clip.digits, clip.motion_bucket_id) for clip in clips]


def test_looks():
    """The same digits on the same way, in other strokes, or black on white; of several, one for each clip."""
    plain, thick, italic, inverted = (
        MovingDigits(clips=4, digits=[1], looks=[look]).load(2) for look in ("plain", "thick", "italic", "inverted")
    )
    np.testing.assert_array_equal(inverted.frames, 255 - plain.frames)
    assert thick.frames.sum() > 1.2 * plain.frames.sum()
    assert abs(italic.frames.sum() / plain.frames.sum() - 1) < 0.15 and (italic.frames != plain.frames).any()
    for clip in (thick, italic, inverted):
        np.testing.assert_array_equal(clip.centres, plain.centres)
    mixed = MovingDigits(clips=40, looks=["plain", "inverted"])
    white = [mixed.load(index).frames.mean() > 127 for index in range(40)]
    assert 10 < sum(white) < 30
    with pytest.raises(DatasetError, match="looks must not be empty"):
        MovingDigits(looks=[])


def test_what_clips_hold():
    dataset = MovingDigits(clips=200, frames=5, speed=[1.0, 3.0], size=80, fps=9)
    clips = [dataset.load(index) for index in range(200)]
    assert all(c.frames.shape == (5, 80, 80, 3) and c.frames.dtype == np.uint8 and c.fps == 9 for c in clips)
    assert {len(c.digits) for c in clips} == {1, 2} and {d for c in clips for d in c.digits} == set(range(10))
    speeds = np.array([c.speed for c in clips])
    assert 1 <= speeds.min() < 1.1 and 2.9 < speeds.max() <= 3
    np.testing.assert_allclose([c.motion_bucket_id for c in clips], 255 * speeds / 4)
    assert MovingDigits(clips=1, speed=[5.0, 5.0]).load(0).motion_bucket_id == 255


def test_digits_move_at_their_speed_by_parts_of_pixels_and_stay_inside():
    dataset = MovingDigits(clips=40, frames=60, digits=[1], speed=[0.3, 4.0])
    for index in range(40):
        clip = dataset.load(index)
        path, corners = clip.centres[:, 0], clip.centres[:, 0] - 13.5
        steps = np.diff(path, axis=0)
        turns = (np.abs(np.diff(np.sign(steps), axis=0)) > 0).any(1)
        straight = ~np.concatenate([[True], turns]) & ~np.concatenate([turns, [True]])
        np.testing.assert_allclose(np.hypot(*steps[straight].T), clip.speed, rtol=1e-9)
        assert corners.min() >= 0 and corners.max() <= ROOM
        seen = centroids(clip.frames)  # another point of the digit than its middle, but it moves with it
        np.testing.assert_allclose(np.diff(seen, axis=0), steps, atol=0.06)
        assert steps.shape == (59, 2) and straight.sum() > 20


def test_digits_turn_at_the_edges():
    clip = MovingDigits(clips=1, frames=200, digits=[1], speed=[4.0, 4.0]).load(0)
    corners = clip.centres[:, 0] - 13.5
    assert (corners.min(0) < 2).all() and (corners.max(0) > ROOM - 2).all(), "it has been at all edges"


def test_digits_that_all_move_one_way():
    dataset = MovingDigits(clips=30, frames=14, speed=[1.0, 2.5], direction=90)
    for index in range(30):
        clip = dataset.load(index)
        steps = np.diff(clip.centres, axis=0)
        np.testing.assert_allclose(steps, np.broadcast_to([0, clip.speed], steps.shape), atol=1e-9)
        assert clip.centres.min() >= 13.5 and clip.centres.max() <= 13.5 + ROOM


def test_varied_digits_move_alike_and_look_otherwise():
    """The same digits on the same paths: smaller, turned, of other strokes, but where they were and not nothing."""
    plain, some, all_ = (MovingDigits(clips=60, frames=3, digits=[1], varied=share) for share in (0.0, 0.5, 1.0))
    changed, light, away = 0, [], []
    for index in range(60):
        a, b, c = (dataset.load(index) for dataset in (plain, some, all_))
        np.testing.assert_array_equal(a.centres, c.centres)
        assert a.digits == b.digits == c.digits and a.speed == c.speed
        changed += not np.array_equal(a.frames, b.frames)
        assert not np.array_equal(a.frames, c.frames) and c.frames.max() > 200
        light.append(c.frames.astype(float).sum() / a.frames.sum())
        away.append(np.abs(centroids(c.frames) - centroids(a.frames)).max())
        np.testing.assert_array_equal(c.frames, all_.load(index).frames)
    assert 18 <= changed <= 42, "half of them"
    assert 0.15 < min(light) < 0.4 and 0.8 < max(light) < 1.5, "thin and small ones, and others as they were"
    assert max(away) < 3


def test_clips_as_people_draw():
    """Digits of 20 to 32 pixels that stay inside with their margin, and one pen and paper for each clip."""
    dataset = MovingDigits(clips=80, frames=6, digits=[1, 2], natural=1.0, speed=[1.0, 4.0])
    sizes, widths, grounds, inks = [], [], [], []
    for index in range(80):
        clip = dataset.load(index)
        frames, half = clip.frames[..., 0] / 255, (np.array(clip.sides)[:, None] - 1) / 2
        assert len(clip.sides) == len(clip.digits) and min(clip.sides) >= 28 and max(clip.sides) <= 40
        assert (clip.centres - half).min() >= 0 and (clip.centres + half).max() <= 63
        grounds.append(np.median(frames[0]))
        inks.append(frames.max())
        assert np.ptp(np.median(frames, (1, 2))) < 0.02, "the paper stands still"
        if len(clip.digits) == 1:
            inked = np.argwhere(frames[0] > (grounds[-1] + inks[-1]) / 2)
            sizes.append(max(np.ptp(inked, 0)) + 1)
            assert abs(sizes[-1] - (clip.sides[0] - 8)) < 8
            widths.append(len(inked) / sizes[-1])
    assert min(sizes) < 23 and max(sizes) > 28 and max(widths) > 2 * min(widths)
    assert min(grounds) < 0.01 and 0.08 < max(grounds) < 0.2 and min(inks) < 0.85 and max(inks) > 0.95
    plain, some = (MovingDigits(clips=60, frames=1, natural=share) for share in (0.0, 0.5))
    changed = sum(some.load(index).sides != plain.load(index).sides for index in range(60))
    assert 18 <= changed <= 45, "half of them"


def test_strokes_get_the_width_of_the_pen_and_do_not_break():
    pictures, _ = handwriting("sklearn", "train")
    for picture in pictures[:20]:
        drawings = []
        for width in (0.2, 2.0, 6.0):
            pen = Pen(width, edge=1.0, ink=1.0, ground=(0.0, 0.0, 0.0))
            drawings.append(drawn(picture, pen, np.random.default_rng(1)))
        thin, middle, thick = (np.uint8(drawing > 0.4) for drawing in drawings)
        parts = [cv2.connectedComponents(drawing, connectivity=8)[0] for drawing in (thin, middle)]
        assert 0 < thin.sum() <= middle.sum() < thick.sum() and parts[0] <= parts[1] + 1
    assert not drawn(np.zeros((28, 28), np.float32), pen, np.random.default_rng(0)).any()


def test_held_out_clips_show_other_handwriting():
    seen, held_out = (MovingDigits(clips=20, part=part) for part in ("train", "test"))
    (known, classes), (others, other_classes) = handwriting("sklearn", "train"), handwriting("sklearn", "test")
    assert (len(known), len(others)) == (1500, 252) and known.shape[1:] == others.shape[1:] == (28, 28)
    assert set(classes) == set(other_classes) == set(range(10))
    assert known.min() == 0 and known.max() == 1
    assert not {p.tobytes() for p in known} & {p.tobytes() for p in others}
    assert other_classes[:10].tolist() == list(range(10)), "as every writer began: none is cut in two"
    assert seen.load(0).speed != held_out.load(0).speed


def test_mnist_files_packed_or_not(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 28, 28))
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", pictures)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([3, 1, 4, 1]))
    found, classes = handwriting(str(tmp_path), "train")
    np.testing.assert_allclose(found, pictures / 255, rtol=1e-6)
    assert classes.tolist() == [3, 1, 4, 1]
    clip = MovingDigits(source=str(tmp_path), digits=[1], speed=[0.0, 1.0]).load(0)
    assert clip.digits[0] in (3, 1, 4)


def test_files_that_are_not_mnists(tmp_path):
    with pytest.raises(DatasetError, match="no file t10k-images-idx3-ubyte or .*; give a folder of MNIST"):
        handwriting(str(tmp_path), "test")
    packed = tmp_path / "train-images-idx3-ubyte.gz"
    for damaged in (gzip.compress(b"\0\0\x08\x03" * 9)[:-9], b"no archive", b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 9):
        packed.write_bytes(damaged)
        with pytest.raises(DatasetError, match="train-images-idx3-ubyte.gz: not a complete idx file"):
            handwriting(str(tmp_path), "train")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(DatasetError, match="train-images-idx3-ubyte: not a complete idx file"):
        handwriting(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"clips": 0}, "clips must be positive, got 0"),
        ({"frames": 0}, "frames must be positive"),
        ({"digits": []}, "digits must be numbers of digits, 1 or more"),
        ({"digits": [0]}, "digits must be numbers of digits, 1 or more"),
        ({"speed": [3.0, 1.0]}, "speed must be the slowest and fastest"),
        ({"speed": [0.0, 0.0]}, "speed must be the slowest and fastest"),
        ({"direction": 0, "speed": [0.0, 3.0]}, "14 frames take a digit further than to the edge"),
        ({"varied": 1.5}, "varied is a share from 0 to 1, got 1.5"),
        ({"natural": -0.5}, "natural is a share from 0 to 1, got -0.5"),
        ({"natural": 0.5, "varied": 0.5}, "varied and natural change the same digits: leave one of them 0"),
        ({"natural": 0.5, "direction": 0, "speed": [0.0, 2.5]}, "14 frames take a digit further than to the edge"),
        ({"natural": 0.5, "size": 40}, "size must be more than a digit's 40 pixels"),
        ({"size": 28}, "size must be more than a digit's 28 pixels"),
        ({"part": "all"}, "part must be train or test"),
        ({"seed": -1}, "seed must not be negative"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, what):
    with pytest.raises(DatasetError, match=what):
        MovingDigits(**arguments)


def test_without_scikit_learn(monkeypatch):
    handwriting.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(DatasetError, match=r'scikit-learn.* is missing: pip install -e "\.\[digits\]"'):
        MovingDigits()
    handwriting.cache_clear()
