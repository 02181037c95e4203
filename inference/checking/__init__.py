"""Checks whether a model is for an input, and whether its result is possible."""
