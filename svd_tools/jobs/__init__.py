"""Batch jobs over many videos that can be interrupted and resumed."""
