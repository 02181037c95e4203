"""Checking: whether an input is one that a model is for, and whether a result is possible."""
