"""What this project's files of tensors say of themselves in their metadata, and how adapters' tensors are named."""

MODEL_FORMAT = "svd-mindspore"
"""A whole model."""
TRAINED_FORMAT = "svd-mindspore-trained"
"""What a training has learned: some of a model's tensors, or adapters."""

LORA_DOWN, LORA_UP = "lora_down", "lora_up"
"""Ends of the names of an adapter's two matrices, behind the name of its layer."""
