"""``overread stats``: prints counts, rates, latencies and disk space."""

from __future__ import annotations

import shutil
from typing import Any

from rich.table import Table

from db.statistics import Latency, Statistics, gather
from node.commands.common import (
    ConfigOption,
    JsonOption,
    console,
    load_configuration,
    opened_database,
    print_json,
)
from node.configuration.configuration import Configuration
from node.views.documents import iso


def stats(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show counts, rates, latencies and disk; rates and latencies are those of the last hour."""
    configuration = load_configuration(config)
    with opened_database(configuration) as database:
        document = _document(gather(database), configuration)
    if json:
        print_json(document)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _lines(document):
        table.add_row(name, value)
    console.print(table)


def _document(statistics: Statistics, configuration: Configuration) -> dict[str, Any]:
    disk = shutil.disk_usage(configuration.data_dir)
    deliveries: dict[str, dict[str, int]] = {}
    for (destination, state), count in statistics.deliveries.items():
        deliveries.setdefault(destination, {})[state] = count
    return {
        "studies": statistics.studies,
        "instances": statistics.instances,
        "instance_bytes": statistics.instance_bytes,
        "instances_last_hour": statistics.instances_last_hour,
        "quarantined": statistics.quarantined,
        "jobs": statistics.jobs,
        "oldest_job": {state: iso(moment) for state, moment in statistics.oldest_job.items()},
        "results": statistics.results,
        "result_bytes": statistics.result_bytes,
        "deliveries": deliveries,
        "latencies": {
            "waiting": _latency(statistics.waiting),
            "running": _latency(statistics.running),
        },
        "disk": {"free_bytes": disk.free, "total_bytes": disk.total},
    }


def _latency(latency: Latency) -> dict[str, float]:
    return {
        "count": latency.count,
        "median_seconds": round(latency.median_seconds, 3),
        "p95_seconds": round(latency.p95_seconds, 3),
    }


def _lines(document: dict[str, Any]) -> list[tuple[str, str]]:
    def counted(counts: dict[str, int]) -> str:
        return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none"

    return [
        ("studies", counted(document["studies"])),
        ("instances", f"{document['instances']} ({document['instance_bytes'] / 1e6:.1f} MB)"),
        ("last hour", f"{document['instances_last_hour']} instances"),
        ("quarantined", str(document["quarantined"])),
        ("jobs", counted(document["jobs"])),
        ("results", f"{document['results']} ({document['result_bytes'] / 1e6:.1f} MB)"),
        *((f"to {name}", counted(states)) for name, states in document["deliveries"].items()),
        *(
            (name, f"median {span['median_seconds']:.2f} s, 95 % below {span['p95_seconds']:.2f} s")
            for name, span in document["latencies"].items()
        ),
        (
            "disk",
            f"{document['disk']['free_bytes'] / 1e9:.1f} of {document['disk']['total_bytes'] / 1e9:.1f} GB free",
        ),
    ]
