"""The steps of a study from the index to its results."""
