"""Round trip of the golden weights: Stability's layout -> this project's -> Stability's, bit for bit."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable

from safetensors.numpy import load_file

from svd_tools.checkpoints.converter import convert
from svd_tools.device_checks import golden
from svd_tools.device_checks.outcome import Outcome, Settings


def round_trip() -> Outcome:
    source, config = golden.FOLDER / "weights.safetensors", golden.FOLDER / "config.yaml"
    with golden.converted() as ours, tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        back = load_file(convert(ours, config, folder, to="sgm"))
    before = load_file(source)
    lost = before.keys() ^ back.keys()
    if lost:
        raise ValueError(f"{len(lost)} tensors are lost or new: {', '.join(sorted(lost)[:3])}")
    other = [
        name
        for name, value in before.items()
        if (value.dtype, value.shape, value.tobytes())
        != (back[name].dtype, back[name].shape, back[name].tobytes())
    ]  # fmt: skip
    return Outcome(len(other) / len(before), 0.0, f"{len(before)} tensors, bit for bit")


def checks(settings: Settings) -> dict[str, Callable[[], Outcome]]:
    return {"conversion, there and back": round_trip}
