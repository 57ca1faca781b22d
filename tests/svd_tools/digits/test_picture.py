"""People's pictures of digits, brought to what the model of moving digits knows."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from device import DEVICE
from PIL import Image

from scripts.make_photographs import PICTURES, STROKES, curve
from svd import runtime
from svd.data.moving_digits import MovingDigits
from svd_tools.digits.judge import judge_frames, load_judge
from svd_tools.digits.picture import Preparation, prepare

ASSETS = Path(__file__).parents[3] / "assets"


def drawn(digit: int, height: float = 26.0, thickness: int = 3, size: int = 64) -> np.ndarray:
    """The digit of a photograph as it was written, in white on black: uint8 [size size], in the middle."""
    lines = [curve(stroke) * (0.72, 1) for stroke in STROKES[digit]]
    low, high = np.concatenate(lines).min(0), np.concatenate(lines).max(0)
    frame, scale = np.zeros((size, size), np.uint8), height / (high - low).max()
    for line in lines:
        points = (line - (low + high) / 2) * scale + (size - 1) / 2
        cv2.polylines(frame, [np.round(16 * points).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, shift=4)
    return frame


def likeness(image: Image.Image, frame: np.ndarray) -> float:
    """How much two pictures of light on black overlap, blurred by two pixels: 1 if they are the same."""
    a, b = (cv2.GaussianBlur(x.astype(np.float64), (0, 0), 2) for x in (np.asarray(image)[..., 0], frame))
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


@pytest.mark.parametrize("name", PICTURES)
def test_a_photograph_keeps_its_digit(name):
    """Paper, shadows and perspective are gone; the digit is that which was written, rather than any other."""
    prepared = prepare(Image.open(ASSETS / f"photographs/{name}.jpg"), 64, 64)
    frame = np.asarray(prepared.image)
    assert prepared.found and prepared.changes[-3:] == ["background removed", "normalised", "centred"]
    assert ("inverted" in prepared.changes) == (name != "chalk_two")
    assert frame.shape == (64, 64, 3) and not np.ptp(frame, axis=-1).any() and np.median(frame) == 0
    inked = np.argwhere(frame[..., 0] > 127)
    assert 24 <= np.ptp(inked, 0).max() + 1 <= 31
    assert np.abs((inked.min(0) + inked.max(0)) / 2 - 31.5).max() <= 1
    likenesses = {digit: likeness(prepared.image, drawn(digit)) for digit in STROKES}
    assert max(likenesses, key=likenesses.get) == PICTURES[name][0] and max(likenesses.values()) > 0.85


def test_what_the_model_knows_stays_as_it_is():
    for name in ("drawing", "four_and_nine", "three"):
        image = Image.open(ASSETS / f"{name}.png").convert("RGB")
        assert prepare(image, 64, 64).image is image
    data = MovingDigits(20, frames=1, natural=1.0, digits=[1])
    unchanged = [not prepare(Image.fromarray(data.load(index).frames[0]), 64, 64).changes for index in range(20)]
    assert np.mean(unchanged) >= 0.8


@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (90, 160), (255, 0), (120, 60)])
@pytest.mark.parametrize(("shape", "height"), [((300, 420), 80), ((200, 200), 170), ((28, 28), 20)])
def test_other_sizes_and_inks(ink, paper, shape, height):
    """Dark on light and light on dark, small in a large picture or filling it."""
    written = np.zeros(shape)
    side = min(shape)
    top, left = ((length - side) // 2 for length in shape)
    written[top : top + side, left : left + side] = drawn(3, height, max(height // 9, 2), side) / 255
    grey = np.round(paper + written * (ink - paper)).astype(np.uint8)
    prepared = prepare(Image.fromarray(np.repeat(grey[..., None], 3, -1)), 64, 64)
    assert likeness(prepared.image, drawn(3)) > 0.85
    assert ("inverted" in prepared.changes) == (ink < paper) and "made grey" not in prepared.changes


def test_two_digits_keep_their_places():
    page = np.full((200, 300), 230, np.uint8)
    page[40:140, 20:120] -= drawn(3, 70, 8, 100) // 2
    page[80:180, 170:270] -= drawn(5, 70, 8, 100) // 2
    prepared = prepare(Image.fromarray(np.repeat(page[..., None], 3, -1)), 64, 96)
    frame = np.asarray(prepared.image)[..., 0]
    assert frame.shape == (64, 96)
    count, _, stats, centres = cv2.connectedComponentsWithStats(np.uint8(frame > 127))
    assert count == 3 and stats[1:, cv2.CC_STAT_HEIGHT].min() > 15
    (x, y), (x2, y2) = sorted(centres[1:].tolist())
    assert x2 - x > 3 * (y2 - y) > 20


@pytest.mark.parametrize("kind", ["blank", "noise", "gradient"])
def test_pictures_without_strokes(kind):
    ramp = np.linspace(0, 255, 100)[:, None, None]
    pixels = {
        "blank": np.full((100, 100, 3), 200),
        "noise": np.random.default_rng(0).integers(0, 256, (100, 100, 3)),
        "gradient": np.broadcast_to(ramp, (100, 100, 3)),
    }[kind]
    image = Image.fromarray(pixels.astype(np.uint8))
    prepared = prepare(image, 64, 64)
    assert not prepared.found and not prepared.changes and prepared.image is image


def test_what_is_said(capsys):
    """One line of what was done; a warning with the judge's doubt, or that there is nothing."""
    device = runtime.setup(DEVICE, 1)
    preparation = Preparation(64, 64, device)
    preparation.judge.sure = 0.5
    photograph, blank = Image.open(ASSETS / "photographs/pencil_three.jpg"), Image.new("RGB", (64, 64))
    preparation(photograph, Path("pencil.jpg"))
    said = capsys.readouterr().err
    changes = "inverted, made grey, background removed, normalised, centred"
    assert said == f"pencil.jpg: {changes} (--prepare=none leaves it as it is)\n"
    preparation(blank, Path("blank.png"))
    said = capsys.readouterr().err
    assert said.startswith("warning: blank.png: nothing in it stands out from the background")
    preparation.judge.sure = 1.1
    preparation(Image.open(ASSETS / "three.png").convert("RGB"), Path("three.png"))
    said = capsys.readouterr().err
    seen = judge_frames(preparation.judge, np.asarray(Image.open(ASSETS / "three.png").convert("RGB"))[None], 1)[0]
    assert seen.argmax() == 3
    assert said == (
        f"warning: three.png: the judge sees no digit in it (at most a 3, with {seen[3]:.0%}), and the model knows "
        "digits alone\n"
    )
    assert load_judge(ASSETS / "digits/judge.safetensors", device, 64, None).sure < 0.5
