"""Series of slices as volumes with an exact geometry in patient coordinates."""
