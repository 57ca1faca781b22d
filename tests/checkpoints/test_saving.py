"""Files of tensors."""

import os

import numpy as np
import pytest
from safetensors.numpy import load_file

from svd.checkpoints.saving import save_tensors


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_a_file_may_be_read_by_whom_the_user_lets_read(tmp_path, mask, mode):
    """Latents and checkpoints lie on drives that a group shares."""
    path, old = tmp_path / "a.safetensors", os.umask(mask)
    try:
        save_tensors(path, {"x": np.arange(3)})
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == mode
    np.testing.assert_array_equal(load_file(path)["x"], np.arange(3))
