"""The files of models: checkpoints and adapters."""
