"""What the networks compute, move and keep, from their architecture: scripts/costs.py prints it."""
