"""Format names in the metadata of this project's files, and names of adapters' tensors."""

MODEL_FORMAT = "svd-mindspore"
"""A whole model."""
TRAINED_FORMAT = "svd-mindspore-trained"
"""Trained tensors: a part of a model, or adapters."""
REVERSAL_FORMAT = "svd-mindspore-reversal"
"""What is added to an image-to-video model for videos backward in time."""

LORA_DOWN, LORA_UP = "lora_down", "lora_up"
"""Suffixes of an adapter's two matrices, after the name of its layer."""

TOKENIZER = "tokenizer"
"""Key of the vocabulary in the metadata of a model that is given text."""
