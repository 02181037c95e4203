"""Objects and megabytes a second that a receiver acknowledges, beside three other receivers in the same run.

300 CT slices (512 x 512, 16 bit) and 40 DX images (2500 x 2048, 16 bit) are sent by DCMTK's storescu
over 1, 4 and 16 associations at a time, in turns, to a fresh instance of each receiver.

Usage: python -m benchmarks.ingest [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import table, write_section
from benchmarks.sending import ASSOCIATIONS, DESCRIPTION, KINDS, check_room, generate, send
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.peers.programs import program
from tests.peers.waiting import answers, free_port, wait_until

RECEIVERS = ("overread", "Orthanc", "pynetdicom", "storescp")
"""In this order and the other way round by turns."""


def main() -> None:
    """Generate, send, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="overread-bench-") as scratch:
        folder = Path(scratch)
        files = {kind: generate(folder / kind, kind) for kind in KINDS}
        # Nothing is removed before the end, since removing slows down what comes after it.
        check_room(folder, files, rounds * len(ASSOCIATIONS) * len(RECEIVERS))
        seconds: dict[tuple[str, str, int], list[float]] = {}
        for number in range(rounds):
            for kind, paths in files.items():
                for associations in ASSOCIATIONS:
                    for name in RECEIVERS if number % 2 else reversed(RECEIVERS):
                        place = folder / f"{name}-{kind}-{associations}-{number}"
                        # What one left to be written later, or removed, must not be in the way of the next.
                        os.sync()
                        with _receiver(name, place) as (port, ae_title):
                            took = send(paths, associations, port, ae_title)
                        seconds.setdefault((name, kind, associations), []).append(took)
        write_section("Ingest", _report(files, seconds, rounds))


@contextmanager
def _receiver(name: str, folder: Path) -> Iterator[tuple[int, str]]:
    folder.mkdir()
    if name == "overread":
        with Node(folder, engine=False) as node:
            yield node.port, "OVERREAD"
    elif name == "Orthanc":
        with Orthanc(folder) as pacs:
            yield pacs.port, "ORTHANC"
    else:
        port = free_port()
        command = (
            [sys.executable, "-m", "benchmarks.plain_scp", str(port), str(folder)]
            if name == "pynetdicom"
            else [str(program("storescp")), "--fork", "-pdu", "131072", "-od", str(folder), str(port)]
        )
        environment = {**os.environ, "TCP_NODELAY": "1"}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: answers(port), 20, f"{name} listens")
            yield port, "PLAIN"
        finally:
            process.kill()
            process.wait()


def _report(
    files: dict[str, list[Path]], seconds: dict[tuple[str, str, int], list[float]], rounds: int
) -> str:
    rows = []
    for kind, paths in files.items():
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        for associations in ASSOCIATIONS:
            runs = {name: seconds[name, kind, associations] for name in RECEIVERS}
            took = {name: statistics.median(runs[name]) for name in RECEIVERS}
            ratios = {
                name: statistics.median(
                    theirs / ours for theirs, ours in zip(runs[name], runs["overread"], strict=True)
                )
                for name in RECEIVERS
                if name != "overread"
            }
            rows.append(
                (
                    kind,
                    str(associations),
                    *(f"{len(paths) / took[name]:.0f} ({megabytes / took[name]:.0f})" for name in RECEIVERS),
                    *(f"{ratio:.2f}" for ratio in ratios.values()),
                )
            )
    headings = (
        "images",
        "associations",
        *(f"{name}, objects/s (MB/s)" for name in RECEIVERS),
        *(f"overread : {name}" for name in RECEIVERS if name != "overread"),
    )
    return (
        f"{DESCRIPTION}, medians of {rounds} rounds; the ratios are medians of each round's own. overread syncs names "
        "and files and commits an index row before each answer; Orthanc syncs its files; storescp (one process for "
        "each association) and the plain pynetdicom SCP do neither.\n\n" + table(headings, rows)
    )


if __name__ == "__main__":
    main()
