"""Importing: checkpoints of other systems as models of the store."""
