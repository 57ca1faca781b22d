"""What svd_tools/check_device.py checks: a module for each group of checks, which run in processes of their own.

A group's `checks(settings)` gives its checks by name, in their order. A check compares, and returns an Outcome.
"""
