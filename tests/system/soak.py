"""A node under mixed load with random kills, PACS outages and bad objects, and what became of everything.

Usage: python -m tests.system.soak --minutes N [--folder FOLDER]

Prints what was sent, acknowledged, reported, delivered and quarantined; ends with status 1 on any difference.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from tests.peers.dcmtk import storescu
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.peers.processes import stages_of
from tests.peers.spool import filled
from tests.peers.waiting import wait_until
from tests.system.conftest import write_radiograph
from tests.system.faults.witness import dataset_bytes

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
KILL_SECONDS = 20.0
PAUSE_SECONDS = 0.5
OUTAGE_SECONDS = (90.0, 15.0)
"""A PACS that is up for the first time goes away for the second."""
ROLES = ("receiver", "worker", "stage", "courier", "ticker", "web")
SETTLE_SECONDS = 900.0
TELL_SECONDS = 60.0


@dataclass
class Tally:
    """What happened to what was sent."""

    acknowledged: dict[str, Path] = field(default_factory=dict)
    conflicts: int = 0
    counts: Counter[str] = field(default_factory=Counter)


class Soak:
    """One run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.tally = Tally()
        self.pacs = Orthanc(folder / "pacs")
        self.node = Node(folder / "node", [("pacs", "ORTHANC", self.pacs.port)], commit=True)
        self.pacs.modalities = {
            "overread": {
                "AET": "OVERREAD",
                "Host": "127.0.0.1",
                "Port": self.node.port,
                "AllowStorageCommitment": True,
            }
        }
        self.number = 0

    def run(self, minutes: float) -> list[str]:
        """Run for some minutes, let everything settle; the differences that were found."""
        self.pacs.start()
        with self.node:
            end = time.monotonic() + 60 * minutes
            kill_at = time.monotonic() + KILL_SECONDS
            pacs_at = time.monotonic() + OUTAGE_SECONDS[0]
            tell_at = time.monotonic() + TELL_SECONDS
            away = False
            while time.monotonic() < end:
                self._send_something()
                if time.monotonic() > tell_at:
                    self._tell(f"{(end - time.monotonic()) / 60:.0f} minutes to go")
                    tell_at += TELL_SECONDS
                # A pace that two cores keep up with: a growing queue would only be waited for at the end.
                time.sleep(self.chance.expovariate(1 / PAUSE_SECONDS))
                if time.monotonic() > kill_at:
                    self._kill()
                    kill_at = time.monotonic() + self.chance.uniform(0.5, 1.5) * KILL_SECONDS
                if time.monotonic() > pacs_at:
                    away = not away
                    self.pacs.stop() if away else self.pacs.start()
                    self.tally.counts["PACS outages"] += away
                    pacs_at = time.monotonic() + OUTAGE_SECONDS[1 if away else 0]
            if away:
                self.pacs.start()
            self._tell("nothing more is sent; waiting until all is reported and committed to")
            studies = {str(pydicom.dcmread(p).StudyInstanceUID) for p in self.tally.acknowledged.values()}
            for delivery in self._waiting_deliveries():
                self.node.command("retry", str(delivery))
            self.node.wait_for_jobs(len(studies), SETTLE_SECONDS)
            wait_until(self._committed, SETTLE_SECONDS, "the PACS has committed to every result")
            self._tell("comparing what was sent, kept and delivered")
            differences = self._differences(studies)
            status = self.node.stop()
        if status != 0:
            differences.append(f"the node ended with status {status}")
        if "Canary" in self.node.log or "CANARY" in self.node.log:
            differences.append("a patient's name is in the log")
        self.pacs.stop()
        return differences

    def _tell(self, what: str) -> None:
        kills = sum(count for name, count in self.tally.counts.items() if name.startswith("killed"))
        print(f"{len(self.tally.acknowledged)} acknowledged, {kills} kills: {what}", flush=True)

    def _waiting_deliveries(self) -> list[int]:
        """Jobs with a delivery that was given up; an outage alone makes none."""
        return [
            job["id"]
            for job in self.node.jobs()
            if any(delivery["state"] == "failed" for delivery in job["deliveries"])
        ]

    def _committed(self) -> bool:
        return all(d["state"] == "committed" for job in self.node.jobs() for d in job["deliveries"])

    def _send_something(self) -> None:
        self.number += 1
        path = self.folder / f"{self.number}.dcm"
        kind = self.chance.choices(("good", "again", "conflict", "broken"), (70, 10, 5, 15))[0]
        earlier = list(self.tally.acknowledged.values())
        if kind in ("again", "conflict") and not earlier:
            kind = "good"
        self.tally.counts[f"sent {kind}"] += 1
        if kind == "again":
            self._send(self.chance.choice(earlier))
        elif kind == "conflict":
            dataset = pydicom.dcmread(self.chance.choice(earlier))
            dataset.StudyDescription = f"changed {self.number}"
            dataset.save_as(path)
            self._send(path)
            self.tally.conflicts += 1
        elif kind == "broken":
            write_radiograph(path, self.number)
            data = bytearray(path.read_bytes())
            position = self.chance.randrange(400, min(len(data), 900))
            data[position : position + 8] = self.chance.randbytes(8)
            path.write_bytes(bytes(data))
            self._try(path)
        else:
            written = write_radiograph(path, self.number)
            self._send(path)
            self.tally.acknowledged[str(written.SOPInstanceUID)] = path

    def _send(self, path: Path) -> None:
        """Send until it is acknowledged, as a modality does."""
        wait_until(lambda: self._try(path), 120, "the node acknowledges")

    def _try(self, path: Path) -> bool:
        try:
            storescu(self.node.port, path)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return False
        except Exception:  # what the mutation left is no file that storescu would take
            return False
        return True

    def _kill(self) -> None:
        role = self.chance.choice(ROLES)
        stages = [pid for worker in self.node.pids("worker") for pid in stages_of(worker)]
        for pid in (stages if role == "stage" else self.node.pids(role))[:1]:
            os.kill(pid, signal.SIGKILL)
            self.tally.counts[f"killed {role}"] += 1

    def _differences(self, studies: set[str]) -> list[str]:
        differences: list[str] = []
        kept: dict[str, list[bytes]] = {}
        for path in filled(self.node.data_dir / "spool"):
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            kept.setdefault(str(header.get("SOPInstanceUID", "")), []).append(dataset_bytes(path))
        for uid, path in self.tally.acknowledged.items():
            if dataset_bytes(path) not in kept.get(uid, []):
                differences.append(f"acknowledged instance {uid} is not there as it was sent")
        jobs = [job for job in self.node.jobs() if job["study_instance_uid"] in studies]
        for job in jobs:
            if job["state"] != "succeeded":
                differences.append(f"job {job['id']} is {job['state']}: {job['reason']}")
            if any(delivery["state"] != "committed" for delivery in job["deliveries"]):
                differences.append(f"results of job {job['id']} are not committed to by the PACS")
        reports: Counter[str] = Counter()
        found = 0
        for identifier in self.pacs.instances():
            found += 1
            path = self.pacs.file(identifier, self.folder)
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if header.SOPClassUID == COMPREHENSIVE_3D_SR:
                reports[str(header.StudyInstanceUID)] += 1
            path.unlink()
        differences += [
            f"study {study} has {reports[study]} reports at the PACS"
            for study in studies
            if reports[study] != 1
        ]
        counts = self.tally.counts
        counts["acknowledged instances"] = len(self.tally.acknowledged)
        counts["reported studies"] = sum(reports[study] == 1 for study in studies)
        counts["objects at the PACS"] = found
        counts["committed jobs"] = sum(
            all(delivery["state"] == "committed" for delivery in job["deliveries"]) for job in jobs
        )
        counts["quarantined"] = self.node.quarantined()
        if counts["quarantined"] < self.tally.conflicts:
            differences.append(
                f"{self.tally.conflicts} conflicts were sent and {counts['quarantined']} are in quarantine"
            )
        return differences


def main() -> None:
    """Run, print, and fail on a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=20261121)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overread-soak-") as folder:
        soak = Soak(Path(folder), arguments.seed)
        differences = soak.run(arguments.minutes)
        print(f"{arguments.minutes:g} minutes, seed {arguments.seed}")
        for name, count in sorted(soak.tally.counts.items()):
            print(f"{count:8d}  {name}")
        for difference in differences:
            print(f"DIFFERENCE: {difference}")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
