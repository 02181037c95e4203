"""Radiographs a second from the queue to a PACS, and what each costs; or an urgent one behind a long queue.

Studies are received and planned with no worker. Then the worker starts, and works until the PACS has the last report.

Usage: python -m benchmarks.throughput [--studies N] [--device cpu|cuda] [--urgent]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.peer import AE_TITLE, Peer
from benchmarks.radiographs import Radiographs
from benchmarks.report import table, write_section
from benchmarks.roles import Cost, Meter, Roles, cores
from db.database import Database
from db.outbox import Outbox
from db.queue import Queue
from db.states import DeliveryState, JobState
from tests.peers.node import Node
from tests.peers.waiting import wait_until

STUDIES = 200
URGENT_STUDIES = 10
BEHIND = 10_000
"""Jobs before the urgent ones."""
WARM = 20
"""Jobs that the node has settled before the first urgent study comes."""
QUEUED_SECONDS = 3600.0
REPORTED_SECONDS = 600.0
LOOK_SECONDS = 0.01
STATION = "EMERGENCY"
CONFIGURATION = """
[[engine]]
name = "cxr"
kind = "chest_xray"
model = "demo"
device = "{device}"

[[route]]
name = "urgent"
match = {{ StationName = "{station}" }}
engines = ["cxr"]
destinations = ["pacs"]
priority = 10

[[route]]
name = "chest x-rays"
match = {{ Modality = ["DX"] }}
engines = ["cxr"]
destinations = ["pacs"]
"""


def main() -> None:
    """Measure and write the sections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, help=f"{STUDIES}, and {BEHIND} before urgent ones")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="all that there are, if not given")
    parser.add_argument(
        "--urgent", action="store_true", help="send urgent studies to a node with a long queue"
    )
    arguments = parser.parse_args()
    has_cuda = torch.cuda.is_available()
    if arguments.device == "cuda" and not has_cuda:
        print("No CUDA device: nothing to measure.")
        return
    present = ("cpu", "cuda") if has_cuda else ("cpu",)
    for device in present if arguments.device is None else (arguments.device,):
        if arguments.urgent:
            _measure_urgent(device, arguments.studies or BEHIND)
        else:
            _measure(device, arguments.studies or STUDIES)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A node that has no worker yet, and a PACS."""

    node: Node
    roles: Roles
    peer: Peer
    database: Database
    radiographs: Radiographs


@contextmanager
def _site(device: str, *, small: bool) -> Iterator[Site]:
    """Receiver, ticker and courier run."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overread-bench-")))
        peer = stack.enter_context(Peer(folder / "peer"))
        node = Node(
            folder / "node",
            [("pacs", AE_TITLE, peer.port)],
            engine=False,
            extra=CONFIGURATION.format(device=device, station=STATION),
        )
        roles = stack.enter_context(Roles(node))
        for role in ("receiver", "ticker", "courier"):
            roles.start(role)
        database = stack.enter_context(roles.database())
        radiographs = Radiographs(folder / "sent", node.port, small=small)
        yield Site(node=node, roles=roles, peer=peer, database=database, radiographs=radiographs)


def _fill(site: Site, count: int) -> list[str]:
    """Send studies and wait until all have their job; everything is on the disk then."""
    studies = site.radiographs.send(count)
    queue = Queue(site.database)
    wait_until(lambda: queue.counts()[JobState.QUEUED] == count, QUEUED_SECONDS, "all studies are planned")
    os.sync()
    return studies


def _arrival(site: Site, study: str) -> float:
    """Wait for a study's report at the PACS; when it came, in seconds since the epoch."""
    deadline = time.monotonic() + REPORTED_SECONDS
    while (arrived := site.peer.report_arrived(study)) is None:
        site.roles.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"a study has no report after {REPORTED_SECONDS:g} s")
        time.sleep(LOOK_SECONDS)
    return arrived


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What became of the studies. Times are seconds since the worker was ready; ``jobs`` as ``show --json`` says."""

    loading: float
    settled: float
    arrived: float
    costs: dict[str, Cost]
    memory: int
    """Of the worker with all that it started, in bytes."""
    jobs: list[dict[str, Any]]
    peer: str


def _measure(device: str, count: int) -> None:
    with _site(device, small=False) as site:
        measured = _run(site, _fill(site, count))
    title = "Throughput" if device == "cpu" else "Throughput on CUDA"
    name = "" if device == "cpu" else f" {torch.cuda.get_device_name(0)}."
    write_section(title, _report(measured, name))


def _run(site: Site, studies: Sequence[str]) -> Measured:
    before = time.time()
    site.roles.start("worker")
    ready = time.time()
    outbox = Outbox(site.database)
    sent = ("pacs", str(DeliveryState.SENT))
    with Meter({**site.roles.pids(), "peer": site.peer.pid}, memory_of=("worker",)) as meter:
        # The order in which they come is about that of the queue, so that one look at the first that lacks does.
        arrived = max(_arrival(site, study) for study in studies)
        wait_until(lambda: set(outbox.counts()) == {sent}, QUEUED_SECONDS, "all overlays are sent")
    jobs = site.node.jobs()
    failed = [f"{job['state']}: {job['reason']}" for job in jobs if job["state"] != "succeeded"]
    if failed:
        raise RuntimeError(f"{len(failed)} jobs have not succeeded, {failed[0]}")
    settled = max(datetime.fromisoformat(job["finished_at"]) for job in jobs)
    return Measured(
        loading=ready - before,
        settled=settled.astimezone(UTC).timestamp() - ready,
        arrived=arrived - ready,
        costs=meter.costs,
        memory=meter.largest_memory,
        jobs=jobs,
        peer=site.peer.name,
    )


def _report(measured: Measured, device: str) -> str:
    count = len(measured.jobs)
    seconds = {role: cost.total / count for role, cost in measured.costs.items()}
    node = sum(value for role, value in seconds.items() if role != "peer")
    limit = cores() / node
    rates = [
        (name, f"{count / took:.1f}", f"{100 * count / took / limit:.0f} %")
        for name, took in (
            ("queue to settled", measured.settled),
            ("queue to report at the PACS", measured.arrived),
            (f"limit: {cores()} cores / processor time of the node for a study", 1 / limit * count),
        )
    ]
    rows = [("all of the node", f"{1000 * node:.1f}")]
    for role, cost in measured.costs.items():
        named = f"the PACS ({measured.peer}), apart" if role == "peer" else role
        rows.append((named, f"{1000 * seconds[role]:.1f}"))
        if role != "peer" and len(cost.by_name) > 1:
            rows += [
                (f"{role}: {'itself' if name == role else name}", f"{1000 * used / count:.1f}")
                for name, used in sorted(cost.by_name.items(), key=lambda item: -item[1])
            ]
    return (
        f"{count} studies of one generated radiograph each (1024 x 1024, 12 bit) in the queue of a node with the "
        f"demonstration model, then its worker.{device} Time counts from when the worker has loaded its model, "
        f"{measured.loading:.1f} s after its start.\n\n"
        + table(("", "studies/s", "of the limit"), rates)
        + "\n\n"
        + table(("processor time for a study", "ms"), rows)
        + "\n\nA job's own times, from its summary:\n\n"
        + table(("ms", "median", "90 %"), _stage_rows(measured.jobs))
        + f"\n\nLargest memory of the worker with its processes: {measured.memory / 1e6:.0f} MB (proportional)."
    )


def _stage_rows(jobs: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """A row for each key of the summaries that is a time in milliseconds."""
    keys = dict.fromkeys(key for job in jobs for key in job["summary"] if key.endswith("_ms"))
    rows: list[tuple[str, str, str]] = []
    for key in keys:
        values = sorted(job["summary"][key] for job in jobs if job["summary"].get(key) is not None)
        ninety = values[math.ceil(0.9 * len(values)) - 1]
        rows.append((key.removesuffix("_ms"), f"{statistics.median(values):.1f}", f"{ninety:.1f}"))
    return rows


def _measure_urgent(device: str, behind: int) -> None:
    took: list[float] = []
    with _site(device, small=True) as site:
        _fill(site, behind)
        queue = Queue(site.database)
        site.roles.start("worker")

        def settled() -> int:
            return queue.counts()[JobState.SUCCEEDED]

        wait_until(lambda: settled() >= WARM, QUEUED_SECONDS, "the node works")
        started, former = time.time(), settled()
        for _ in range(URGENT_STUDIES):
            (study,) = site.radiographs.send(1, StationName=STATION)
            sent = time.time()
            took.append(_arrival(site, study) - sent)
        rate = (settled() - former) / (time.time() - started)
        waiting = queue.counts()[JobState.QUEUED]
    if not waiting:
        raise RuntimeError("the queue was empty before the last urgent study was reported: more --studies")
    body = (
        f"{behind} studies of one radiograph each (256 x 256) in the queue of a node with the demonstration model, "
        f"which works on them; then {URGENT_STUDIES} of a rule with a higher priority, one after another. "
        f"{waiting} of the others were waiting at the end; meanwhile {rate:.1f} jobs a second were settled.\n\n"
        + table(
            ("seconds", "median", "longest"),
            [
                (
                    "last C-STORE response to the report at the PACS",
                    f"{statistics.median(took):.2f}",
                    f"{max(took):.2f}",
                )
            ],
        )
    )
    write_section("Urgent" if device == "cpu" else "Urgent on CUDA", body)


if __name__ == "__main__":
    main()
