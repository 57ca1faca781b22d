"""How close a result has to be to its reference."""

import numpy as np

from svd_tools.device_checks.outcome import CHAIN, NETWORK

__all__ = ["CHAIN", "NETWORK", "as_array", "assert_close", "relative_error"]


def as_array(x) -> np.ndarray:
    """A NumPy array of a MindSpore or PyTorch tensor, or of an array."""
    if hasattr(x, "asnumpy"):
        return x.asnumpy()
    return x.detach().numpy() if hasattr(x, "detach") else np.asarray(x)


def relative_error(result, reference) -> float:
    """The largest absolute difference, as a part of the reference's largest absolute value."""
    result, reference = as_array(result), as_array(reference)
    assert result.shape == reference.shape, f"shape {result.shape} instead of {reference.shape}"
    return float(np.abs(result.astype(np.float64) - reference).max() / np.abs(reference).max())


def assert_close(result, reference, tolerance: float = NETWORK) -> None:
    """Fail where the shapes differ, or a value is further off than `tolerance`."""
    error = relative_error(result, reference)
    assert error <= tolerance, f"relative error {error:.2e} is above {tolerance:.0e}"
