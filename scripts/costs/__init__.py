"""What the networks compute, move and keep, from their architecture: `python -m scripts.costs` prints it."""
