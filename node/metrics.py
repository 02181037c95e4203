"""Prometheus metrics, read from the database at each scrape."""

from __future__ import annotations

