"""What durability costs: objects a second that the node acknowledges, beside the same node with syncing switched off.

Both nodes run all the time, and the same images go to the one and then to the other, under new UIDs each time
(storescu's --invent-instance), so that what else the machine does touches both. Switched off means that libeatmydata
turns every sync into nothing, and that nothing is written out early either.

Usage: python -m benchmarks.durability [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import table, write_section
from benchmarks.sending import ASSOCIATIONS, DESCRIPTION, KINDS, check_room, generate, send
from tests.peers.node import Node

EATMYDATA = Path("/usr/lib/x86_64-linux-gnu/libeatmydata.so")
NO_ADVICE = Path(__file__).with_name("unsynced")
DURABLE, UNSYNCED = "overread", "without syncing"

Load = tuple[str, int]
"""A kind of image and how many associations bring it."""


def main() -> None:
    """Generate, send, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="overread-bench-") as scratch:
        folder = Path(scratch)
        files = {kind: generate(folder / kind, kind) for kind in KINDS}
        check_room(folder, files, rounds * len(ASSOCIATIONS) * len((DURABLE, UNSYNCED)))
        loads = [(kind, associations) for kind in KINDS for associations in ASSOCIATIONS]
        seconds: dict[str, dict[Load, list[float]]] = {
            name: {load: [] for load in loads} for name in (DURABLE, UNSYNCED)
        }
        with (
            Node(folder / "durable", engine=False) as durable,
            Node(folder / "unsynced", engine=False, preload=EATMYDATA, python_path=NO_ADVICE) as unsynced,
        ):
            turns = [(DURABLE, durable), (UNSYNCED, unsynced)]
            for _ in range(rounds):
                for kind, associations in loads:
                    for name, node in turns:
                        # What one left to be written later must not be in the way of the other.
                        os.sync()
                        took = send(files[kind], associations, node.port, "OVERREAD", "--invent-instance")
                        seconds[name][kind, associations].append(took)
                turns.reverse()
        write_section("Durability", _report(seconds, rounds))


def _report(seconds: Mapping[str, Mapping[Load, Sequence[float]]], rounds: int) -> str:
    rows = []
    for load in seconds[DURABLE]:
        kind, associations = load
        rates = {name: KINDS[kind][0] / statistics.median(seconds[name][load]) for name in seconds}
        rows.append(
            (
                kind,
                str(associations),
                *(f"{rate:.0f}" for rate in rates.values()),
                _ratio(seconds[UNSYNCED][load], seconds[DURABLE][load]),
            )
        )
    together = {
        name: [sum(of) for of in zip(*loads.values(), strict=True)] for name, loads in seconds.items()
    }
    rows.append(("all", "", "", "", _ratio(together[UNSYNCED], together[DURABLE])))
    headings = ("images", "associations", *(f"{name}, objects/s" for name in seconds), "with : without")
    return (
        f"{DESCRIPTION}, medians of {rounds} rounds; the ratios are medians of each round's own, with the quarter of "
        "the rounds below and above. The last line is the time for all of it together.\n\n"
        + table(headings, rows)
    )


def _ratio(without: Sequence[float], durable: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles((w / d for w, d in zip(without, durable, strict=True)), n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
