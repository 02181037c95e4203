"""Volumes: series of slices with their exact geometry in patient coordinates."""
