"""Numbers of eight bits, against PyTorch's and against the paper's table."""

import numpy as np
import pytest

from svd.checkpoints.float8 import FLOAT8


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("F8_E4M3", "float8_e4m3fn"),
        ("F8_E5M2", "float8_e5m2"),
        ("F8_E4M3FNUZ", "float8_e4m3fnuz"),
        ("F8_E5M2FNUZ", "float8_e5m2fnuz"),
    ],
)
def test_all_values_are_pytorchs(code, name):
    torch = pytest.importorskip("torch")
    theirs = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name)).float().numpy()
    np.testing.assert_array_equal(FLOAT8[code], theirs)
    numbers = ~np.isnan(theirs)
    np.testing.assert_array_equal(np.signbit(FLOAT8[code])[numbers], np.signbit(theirs)[numbers])  # of zeros, too


def test_the_table_of_the_paper():
    """arXiv 2209.05433, table 1."""
    four, five = FLOAT8["F8_E4M3"], FLOAT8["F8_E5M2"]
    assert (four[0b0_1111_110], four[0b0_0001_000], four[0b0_0000_111], four[1]) == (448, 2**-6, 0.875 * 2**-6, 2**-9)
    assert (five[0b0_11110_11], five[0b0_00001_00], five[1]) == (57344, 2**-14, 2**-16)
    assert five[0b1_11111_00] == -np.inf and np.isnan(four[0x7F]) and np.isnan(five[[0x7D, 0x7E, 0xFF]]).all()
