"""Moving MNIST, made by the published rules or read from the published files; images beside clips."""

import pickle

import numpy as np
import pytest
from small_mnist import write_mnist

from svd.data.clips_with_images import ClipsWithImages
from svd.data.dataset import BadItem, Dataset, DatasetError
from svd.data.moving_digits import NAMES
from svd.data.moving_mnist import MovingMNIST, drawn, path
from svd.data.video_dataset import Clip
from svd.seeds import Purpose, generator


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    return write_mnist(tmp_path_factory.mktemp("mnist"))


def test_clips_follow_from_their_number(mnist):
    data = MovingMNIST(mnist, clips=5)
    clip = data.load(3)
    assert clip.frames.shape == (16, 32, 32, 3) and clip.frames.dtype == np.uint8
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data)).load(3).frames, clip.frames)
    np.testing.assert_array_equal(MovingMNIST(mnist, frames=20).load(3).frames[:16], clip.frames)
    assert (data.load(2).frames != clip.frames).any() and (
        MovingMNIST(mnist, seed=1).load(3).frames != clip.frames
    ).any()
    assert len(clip.digits) == 2 and clip.fps == 8 and MovingMNIST(mnist, fps=5).load(3).fps == 5
    assert clip.frames.max() <= 2 * 109 and MovingMNIST(mnist, part="test").load(3).frames.max() >= 200


def test_captions_are_words_and_figures(mnist):
    seen = set()
    for index in range(60):
        clip = MovingMNIST(mnist, frames=1).load(index)
        for word, digit in zip(clip.caption.split(" and "), clip.digits, strict=True):
            assert word in (str(digit), NAMES[digit])
            seen.add(word.isdigit())
    assert seen == {True, False}


def test_a_digit_is_where_its_clip_says(mnist):
    for index in range(5):
        clip = MovingMNIST(mnist, digits=1, size=64, frames=10).load(index)
        shown = clip.frames[..., 0] > 0
        for frame, (x, y) in zip(shown, clip.centres[:, 0]):
            rows, columns = frame.any(1).nonzero()[0], frame.any(0).nonzero()[0]
            assert rows.mean() == y and columns.mean() == x
        assert clip.frames[..., 0].max() == 100 + clip.digits[0]


def test_digits_bounce_as_in_the_recipe():
    """Whole speeds of 2 to 6; what would be more than two pixels outside turns back before it moves."""
    lengths = []
    for sample in range(200):
        corners = path(60, generator(0, sample, Purpose.DATA))
        steps = np.diff(corners, axis=0)
        assert corners.min() >= -2 and corners.max() <= 38
        np.testing.assert_allclose(np.abs(steps), np.broadcast_to(np.abs(steps[0]), steps.shape))
        lengths.append(np.linalg.norm(steps[0]))
        turned = np.sign(steps[1:]) != np.sign(steps[:-1])
        ahead = corners[1:-1] + steps[:-1]
        np.testing.assert_array_equal(turned, (ahead < -2) | (ahead > 38))
    np.testing.assert_allclose(np.unique(np.round(lengths, 9)), [2, 3, 4, 5, 6])


def test_digits_add_up_to_white():
    picture = np.full((28, 28), 0.6, np.float32)
    frame = drawn(np.stack([picture, picture]), np.array([[[0, 0], [14, 0]], [[-2, -2], [36, 36]]]))
    assert frame[0, 5, [0, 20, 41, 42]].tolist() == [153, 255, 153, 0]
    assert frame[1, 25, 25] == 153 and frame[1, 26, 26] == 0 and frame[1, 63, 63] == 153


def test_published_files_are_read(tmp_path):
    videos = np.random.default_rng(0).integers(0, 256, (20, 30, 64, 64), np.uint8)  # 20 clips of 30 frames
    np.save(tmp_path / "mnist_test_seq.npy", videos.swapaxes(0, 1))
    np.savez_compressed(tmp_path / "with_channel.npz", videos[:, None])
    np.savez(tmp_path / "plain.npz", arr=videos)
    loaded = []
    for name in ("mnist_test_seq.npy", "with_channel.npz", "plain.npz"):
        source = str(tmp_path / name)
        data, test = MovingMNIST(source, size=64, frames=30), MovingMNIST(source, size=64, part="test")
        assert len(data) == 18 and len(test) == 2 and len(MovingMNIST(source, clips=4)) == 4
        np.testing.assert_array_equal(data.load(7).frames[..., 1], videos[7])
        np.testing.assert_array_equal(test.load(1).frames[..., 0], videos[19, :16])
        loaded.append(MovingMNIST(source).load(0).frames)
    assert loaded[0].shape == (16, 32, 32, 3)
    np.testing.assert_array_equal(loaded[0], loaded[1])
    middle = videos[0, 0, 2:30, 2:30].astype(float).mean()
    assert abs(loaded[0][0, 1:15, 1:15].mean() - middle) < 3


def test_what_cannot_be_read_is_refused(mnist, tmp_path):
    np.save(tmp_path / "floats.npy", np.zeros((20, 3, 64, 64)))
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    (tmp_path / "no.npz").write_bytes(b"no")
    whole = tmp_path / "whole.npz"
    np.savez(whole, np.zeros((12, 20, 64, 64), np.uint8))
    fine = tmp_path / "fine.npy"
    np.save(fine, np.zeros((20, 12, 64, 64), np.uint8))
    for options, message in (
        ({}, "source is missing"),
        ({"source": str(tmp_path)}, "give a folder of MNIST's idx files"),
        ({"source": str(tmp_path / "floats.npy")}, r"float64 .* is not uint8 \[frames clips height width\]"),
        ({"source": str(tmp_path / "two.npz")}, "it has 2 arrays"),
        ({"source": str(tmp_path / "no.npz")}, "no array of clips can be read"),
        ({"source": str(tmp_path / "none.npy")}, "there is no such file"),
        ({"source": str(fine), "frames": 21}, "frames must be at most 20"),
        ({"source": str(fine), "clips": 12}, "clips must be at most 11"),
        ({"source": str(fine), "seed": 1}, "seed and digits are for clips that are made"),
        ({"source": mnist, "size": 65}, "size must be at most 64"),
        ({"source": mnist, "frames": 0}, "frames must be positive"),
        ({"source": mnist, "part": "all"}, "part must be train or test"),
    ):
        with pytest.raises(DatasetError, match=message):
            MovingMNIST(**options)


class Counting(Dataset):
    """Clip i has frames of brightness 10 i, 10 i + 1, ...; the third cannot be read."""

    frames, height, width, captioned = 3, 4, 4, True

    def __len__(self) -> int:
        return 5

    def name(self, index: int) -> str:
        return str(index)

    def load(self, index: int, rng: np.random.Generator) -> Clip:
        if index == 2:
            raise BadItem("2", "damaged")
        frames = np.broadcast_to(np.arange(3, dtype=np.uint8)[:, None, None, None] + 10 * index, (3, 4, 4, 3))
        return Clip(frames, 8.0, 0.0, str(index), caption="words")


def test_images_after_a_clip_are_frames_of_others():
    data, seen = ClipsWithImages(Counting(), images=4), set()
    assert len(data) == 5 and data.frames == 3 and data.captioned
    for sample in range(30):
        clip = data.load(1, np.random.default_rng(sample))
        brightness = clip.frames[:, 0, 0, 0].tolist()
        assert brightness[:3] == [10, 11, 12] and len(brightness) == 7 and clip.caption == "words"
        seen |= set(brightness[3:])
    assert seen == {10 * i + frame for i in (0, 3, 4) for frame in range(3)}
    again = [data.load(1, np.random.default_rng(7)).frames for _ in range(2)]
    np.testing.assert_array_equal(*again)
    with pytest.raises(BadItem):
        data.load(2, np.random.default_rng(0))


def test_images_need_other_clips(mnist):
    for options, message in (
        ({}, "dataset is missing"),
        ({"dataset": Counting(), "images": 0}, "images must be positive"),
        ({"dataset": ClipsWithImages(Counting())}, "neither of latents nor with images already"),
        ({"dataset": MovingMNIST(mnist, clips=1)}, "has one clip"),
    ):
        with pytest.raises(DatasetError, match=message):
            ClipsWithImages(**options)
