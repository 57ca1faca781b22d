"""Training: one trainer for every task. A task gives a loss, the parameters to train, and the loss's inputs."""

TRAINED_FORMAT = "svd-mindspore-trained"
"""What the files of trained weights in a checkpoint call themselves, in their metadata."""
