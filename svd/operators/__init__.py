"""Operators of the layers, in formulations for Ascend, for CPU, and portable ones."""
