"""The web process: health, readiness and metrics."""
