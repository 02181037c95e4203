"""The steps of a study from the index to its results: routing, planning, inference and reports."""
