"""The checks of svd_tools/check_device.py: a module per group, each run in a process of its own.

`checks(settings)` of a group returns its checks by name, in order. A check returns an Outcome.
"""
