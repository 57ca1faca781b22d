"""What fine-tuning for videos backward in time added to an image-to-video model, as svd_tools/convert.py writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from svd.checkpoints.formats import REVERSAL_FORMAT
from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import Model

CHANGED = ("to_v.weight", "to_out.weight", "to_out.bias")
"""The parameters of temporal self-attention that may differ (arXiv 2408.15239)."""


def read_reversal(path: str | Path, config: Model) -> dict[str, np.ndarray]:
    """What is added to the parameters of the UNet of such a model, by their names within it, float32.

    Differences, not values: those of SVD, say, may be added to SVD-XT as well.

    Raises:
        CheckpointError: it is no such file, damaged, or of a model with other networks.
    """
    file = Checkpoint(path)
    if file.metadata.get("format") != REVERSAL_FORMAT or not file.shapes:
        raise CheckpointError(
            f"{path} holds nothing for videos backward in time: svd_tools/convert.py writes such a file of a UNet that "
            "was fine-tuned for them, with reversal_of",
            setting="reversal",
        )
    if different := file.config.different_networks(config):
        problem = f"{path} is of another model than the one that it is given for: {different[0]}"
        raise CheckpointError(problem, setting="reversal")
    tensors = {name.removeprefix("network."): file.read(name).astype(np.float32) for name in file.shapes}
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite (NaN or infinity)")
    return tensors
