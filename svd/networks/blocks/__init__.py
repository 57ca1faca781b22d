"""Blocks of UNets, a file per kind."""
