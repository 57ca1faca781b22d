"""Checkpoints of other projects: how they are recognised, read, converted and written."""
