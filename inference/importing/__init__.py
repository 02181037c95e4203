"""Importing: takes checkpoints of other systems into the model store."""
