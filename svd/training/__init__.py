"""Training: one trainer for every task. A task gives a loss, the parameters to train, and the loss's inputs."""
