"""Videos that are kept between runs."""

import numpy as np

from svd_tools.digits.drawing import in_batches

VIDEOS = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4, 3), dtype=np.uint8)


def test_what_is_damaged_anywhere_is_drawn_again(tmp_path):
    drawn = []

    def draw(rows: np.ndarray) -> np.ndarray:
        drawn.append(rows.tolist())
        return VIDEOS[rows]

    def kept() -> np.ndarray:
        return in_batches(draw, 3, 2, "drawing", tmp_path)

    np.testing.assert_array_equal(kept(), VIDEOS)
    np.testing.assert_array_equal(kept(), VIDEOS)
    assert drawn == [[0, 1], [2, 2]]
    path = tmp_path / "000002.npz"
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        np.testing.assert_array_equal(kept(), VIDEOS)
    assert drawn[2:] and all(rows == [2, 2] for rows in drawn[2:])
