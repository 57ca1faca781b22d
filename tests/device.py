"""The device that the tests run on: `bash scripts/test.sh --device GPU` or Ascend, and CPU if nothing is said."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mindspore as ms
import pytest

from svd import runtime

DEVICE = os.environ.get("SVD_TEST_DEVICE", "CPU")
"""CPU, GPU or Ascend."""
AMP_LEVEL = "O0"
"""References are in float32, which is not what Ascend computes in if nothing is said."""
TRAINING = [
    f"--environment.device_target={DEVICE}",
    *([] if DEVICE == "CPU" else [f"--environment.amp_level={AMP_LEVEL}"]),
]
"""Flags of train.py."""


def cpu_only(reason: str) -> pytest.MarkDecorator:
    """Skips what another device cannot do, or would do no otherwise; the reason is shown."""
    return pytest.mark.skipif(DEVICE != "CPU", reason=f"on {DEVICE}: {reason}")


@contextmanager
def eagerly() -> Iterator[None]:
    """Pynative mode, then the one that was: what a graph is compared with need not be compiled."""
    mode = ms.get_context("mode")
    runtime.setup(DEVICE, 1)
    yield
    runtime.setup(DEVICE, mode)
