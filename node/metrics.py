"""Prometheus metrics, read from the database at each scrape."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from db.database import Database
from db.errors import DatabaseError
from db.statistics import Statistics
from node.config import Configuration
