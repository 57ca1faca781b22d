"""Make the pictures in assets/photographs: digits as people photograph them, on paper with a texture, in perspective,
in shadows, in inks of several colours.

python scripts/make_photographs.py
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "assets/photographs"
HEIGHT, WIDTH = 360, 480
STROKES = {
    2: [[(0.18, 0.3), (0.3, 0.06), (0.62, 0.04), (0.76, 0.26), (0.55, 0.58), (0.14, 0.97), (0.45, 0.92), (0.85, 0.95)]],
    3: [[(0.2, 0.12), (0.5, 0.01), (0.76, 0.17), (0.66, 0.38), (0.42, 0.47), (0.74, 0.55), (0.82, 0.8), (0.5, 1.0),
         (0.16, 0.88)]],
    5: [[(0.78, 0.04), (0.5, 0.05), (0.3, 0.06), (0.27, 0.25), (0.24, 0.43), (0.5, 0.38), (0.78, 0.52), (0.76, 0.83),
         (0.48, 1.0), (0.16, 0.9)]],
    7: [[(0.14, 0.06), (0.45, 0.05), (0.82, 0.04), (0.7, 0.3), (0.56, 0.6), (0.42, 1.0)]],
    8: [[(0.66, 0.14), (0.44, 0.0), (0.2, 0.2), (0.42, 0.44), (0.72, 0.64), (0.7, 0.92), (0.45, 1.0), (0.2, 0.84),
         (0.34, 0.58), (0.62, 0.38), (0.74, 0.2), (0.64, 0.1)]],
}  # fmt: skip
"""Points that a pen passes through, of the width and height of a digit."""
PICTURES = {
    # name: digit, its height, thickness, ink, paper, turn in degrees, perspective, shadow, grain
    "pencil_three": (3, 150, 6, (95, 95, 100), (232, 228, 218), -6, 0.06, 0.25, 6),
    "ballpoint_five": (5, 110, 4, (35, 45, 140), (246, 244, 236), 5, 0.10, 0.35, 4),
    "marker_seven": (7, 210, 17, (190, 30, 40), (225, 220, 205), 3, 0.08, 0.30, 5),
    "chalk_two": (2, 190, 12, (225, 228, 220), (38, 66, 54), -4, 0.05, 0.25, 7),
    "green_eight": (8, 170, 9, (30, 120, 60), (205, 180, 140), 4, 0.12, 0.30, 9),
}


def curve(points: list[tuple[float, float]], steps: int = 24) -> np.ndarray:
    """A smooth line through points: Catmull-Rom, [n 2]."""
    p = np.array([points[0], *points, points[-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:]):
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*parts, p[-1:]])


def noise(rng: np.random.Generator, scale: float) -> np.ndarray:
    """Smooth noise of unit variance, [h w]."""
    rough = cv2.GaussianBlur(rng.standard_normal((HEIGHT, WIDTH)).astype(np.float32), (0, 0), scale)
    return rough / rough.std()


def photograph(digit, height, thickness, ink, paper, turn, tilt, shadow, grain, rng) -> np.ndarray:
    """A picture uint8 [h w 3]."""
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    offset = np.array([WIDTH / 2 - 0.36 * height + rng.uniform(-50, 50), (HEIGHT - height) / 2 + rng.uniform(-20, 20)])
    for stroke in STROKES[digit]:
        line = curve(stroke) * (0.72 * height, height) + offset
        line += rng.normal(0, 0.3, line.shape)  # an unsteady hand
        cv2.polylines(drawn, [np.round(8 * line).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, shift=3)
    cover = cv2.GaussianBlur(drawn, (0, 0), 0.8).astype(np.float32) / 255
    cover *= np.clip(0.93 + 0.12 * noise(rng, 1.2), 0, 1)  # the pen does not cover all of the paper
    texture = noise(rng, 0.7) + noise(rng, 3.0) + 0.5 * noise(rng, 20.0)
    page = np.array(paper, np.float32) + (grain / 2 * texture)[..., None]
    page += cover[..., None] * (np.array(ink, np.float32) - page)

    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    across = (columns / WIDTH - 0.5) * np.cos(angle) + (rows / HEIGHT - 0.5) * np.sin(angle)
    light = 1 - shadow * (0.5 + across) - 0.6 * shadow / (1 + np.exp(-(across - rng.uniform(0.05, 0.3)) * 25))
    page *= light[..., None]  # a lamp at one side, and the soft edge of a hand's shadow

    turned = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), turn, 1.15)
    page = cv2.warpAffine(page, turned, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    corners = np.array([(0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT)], np.float32)
    inwards = np.where(corners > 0, -1, 1) * (WIDTH, HEIGHT)
    seen = corners + rng.uniform(0, tilt, (4, 2)) * inwards
    tilted = cv2.getPerspectiveTransform(seen.astype(np.float32), corners)
    page = cv2.warpPerspective(page, tilted, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    page = cv2.GaussianBlur(page, (0, 0), 0.7) + rng.normal(0, 2.5, page.shape)  # lens and sensor
    return np.round(np.clip(page, 0, 255)).astype(np.uint8)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for number, (name, settings) in enumerate(PICTURES.items()):
        picture = photograph(*settings, np.random.default_rng(number))
        Image.fromarray(picture).save(FOLDER / f"{name}.jpg", quality=85)


if __name__ == "__main__":
    main()
