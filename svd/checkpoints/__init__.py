"""Model files: checkpoints and adapters."""
