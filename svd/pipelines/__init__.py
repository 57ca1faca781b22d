"""Pipelines: networks, samplers and files combined for users."""
