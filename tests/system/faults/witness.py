"""A witness beside a node and its PACS: knows what was acknowledged, and what has to be so after any fault."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pydicom
from pynetdicom.dsutils import split_dataset

from db.database import Database, DatabaseSettings
from db.index import Index
from handlers.spool.files import is_whole
from tests.peers import dcmtk
from tests.peers.faults.steps import Faults
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.peers.processes import Holdings, holdings
from tests.peers.spool import filled
from tests.peers.waiting import stalls, wait_until
from tests.system.conftest import write_radiograph

log = logging.getLogger(__name__)

SERVED_SECONDS = 10.0
"""Within this a modality in good order is served, whatever happens around it."""
SETTLED_SECONDS = 180.0
BASELINE_SECONDS = 60.0
MORE_HANDLES = 3
"""One more connection to the database in the pool: the file, its log and its shared memory."""
MORE_MEMORY = 8 * 1024 * 1024
"""What the allocator may keep for later."""
FRAGMENT = 16384
"""Of datasets as they are sent: the small radiographs come in several."""


class Witness:
    """Sends to a node as a modality does and checks what became of everything."""

    def __init__(
        self,
        folder: Path,
        *,
        with_pacs: bool = True,
        measured: bool = False,
        faulty: Sequence[tuple[str, str, int]] = (),
        **settings: Any,
    ) -> None:
        """``faulty`` are destinations (name, AE title, port) beside the PACS whose deliveries may wait.

        ``measured``: what receivers hold is examined too, against what they held after a little work.
        """
        self.folder = folder
        self.pacs = Orthanc(folder / "pacs") if with_pacs else None
        self.elsewhere = folder / "elsewhere"
        self.faults = Faults(folder / "faults")
        self.node = Node(
            folder / "node",
            [*([] if self.pacs is None else [("pacs", "ORTHANC", self.pacs.port)]), *faulty],
            faults=self.faults,
            elsewhere=self.elsewhere,
            **settings,
        )
        self._faulty = {name for name, _, _ in faulty}
        self.acknowledged: dict[str, Path] = {}
        """File by SOP Instance UID."""
        self.studies: set[str] = set()
        self.partial = 0
        """Unfinished files that kills left in the spool since the node started."""
        self.unknown = 0
        """Whole files that kills left in the spool without a row."""
        self.orphans = 0
        self.measured = measured
        self._number = 0
        self._compared: set[str] = set()
        self._baseline: Holdings | None = None

    @contextmanager
    def watching(self) -> Iterator[Witness]:
        """Node and PACS run; where it is measured, they have worked a little first."""
        with self.pacs or nullcontext():
            self.node.start()
            try:
                if self.measured:
                    for _ in range(6):
                        self.send(self.radiograph())
                    self.wait_for_jobs()
                    self._baseline = wait_until(self._receivers, 10, "the receivers run")
                yield self
            finally:
                self.node.stop()

    def radiograph(self, **attributes: object) -> Path:
        """A new study of one image, as a file."""
        self._number += 1
        path = self.folder / f"{self._number}.dcm"
        write_radiograph(path, self._number, **attributes)
        return path

    def send(self, path: Path, seconds: float = 60) -> None:
        """Send again until the node has acknowledged."""
        dcmtk.send(self.node.port, path, pdu_length=FRAGMENT, seconds=seconds)
        self.note(path)

    def note(self, path: Path) -> None:
        """The node has acknowledged this file."""
        uids = identity(path)
        self.acknowledged[uids[1]] = path
        self.studies.add(uids[0])

    def assert_serves(self) -> None:
        """A modality that has nothing to do with the fault is served in time."""
        path = self.radiograph()
        started = time.monotonic()
        with stalls() as stalled:
            self.send(path, SERVED_SECONDS + 50)
        took = time.monotonic() - started - sum(stalled)
        log.info("served in %.2f s", took)
        assert took <= SERVED_SECONDS

    def wait_for_jobs(self, seconds: float = SETTLED_SECONDS) -> list[dict[str, Any]]:
        """All jobs, once each has ended and is delivered, but for the faulty destinations."""
        return self.node.wait_for_jobs(len(self.studies), seconds, but=self._faulty)

    def start_again(self) -> None:
        """Start the node after a kill; it clears the spool up."""
        self.node.start()
        self.orphans += self.unknown
        self.partial = self.unknown = 0

    def assert_intact(self, otherwise: Mapping[str, str] | None = None) -> None:
        """Nothing acknowledged is lost, nothing is done twice, nothing is left over or in the wrong place.

        ``otherwise`` has the states of the studies whose jobs have not succeeded.
        """
        ended = {study: (otherwise or {}).get(study, "succeeded") for study in self.studies}
        jobs = self.wait_for_jobs()
        assert {job["study_instance_uid"]: job["state"] for job in jobs} == ended
        assert len(jobs) == len(ended)
        self._assert_spool()
        self._assert_results(jobs, {study for study, state in ended.items() if state == "succeeded"})
        if self.measured:
            wait_until(self._at_baseline, BASELINE_SECONDS, f"at most {self._baseline}: {self._receivers()}")
            log.info("at the baseline %s with %s", self._baseline, self._receivers())
        wait_until(lambda: not self._sockets_of_the_dead(), 30, "the sockets of dead processes are gone")
        assert {path.name for path in self.node.folder.iterdir()} <= {"config.toml", "node.log", "var"}
        assert list(self.elsewhere.rglob("*")) == []
        self.assert_no_patient_in_logs()

    def assert_no_patient_in_logs(self) -> None:
        """The name and the number of the patients are in no log and in no audit message."""
        audit = self.node.data_dir / "audit"
        for path in (self.node.folder / "node.log", *(p for p in audit.rglob("*") if p.is_file())):
            assert "canary" not in path.read_text().lower(), path

    def _assert_spool(self) -> None:
        url = self.node.database.replace("///var", f"///{self.node.data_dir}")
        database = Database.open(DatabaseSettings(url=url, wait_seconds=60))
        try:
            index = Index(database)
            for uid, path in self.acknowledged.items():
                instance = index.find_instance(uid)
                assert instance is not None
                assert dataset_bytes(self.node.data_dir / instance.path) == dataset_bytes(path)
            known = index.known_paths()
        finally:
            database.close()
        kept = filled(self.node.data_dir / "spool")
        whole = {path.relative_to(self.node.data_dir).as_posix() for path in kept if is_whole(path)}
        unknown = whole - known
        assert (len(kept) - len(whole), len(unknown)) == (self.partial, self.unknown)
        orphans = self.node.data_dir / "orphans"
        assert len(list(orphans.iterdir()) if orphans.exists() else []) == self.orphans
        assert len(whole - unknown) == len(self.acknowledged)

    def _assert_results(self, jobs: list[dict[str, Any]], reported: set[str]) -> None:
        """One set of results for each study and revision: in the database, in the folder and at the PACS."""
        reports = Counter(
            (job["study_instance_uid"], job["revision"])
            for job in jobs
            for result in job["results"]
            if result["kind"] == "sr"
        )
        assert reports == {(study, 1): 1 for study in reported}
        files = {result["sop_instance_uid"]: result["file"] for job in jobs for result in job["results"]}
        assert len(files) == sum(len(job["results"]) for job in jobs)
        folder = self.node.data_dir / "results"
        lying = {
            path.relative_to(self.node.data_dir).as_posix() for path in folder.rglob("*") if path.is_file()
        }
        assert lying >= set(files.values())
        left = lying - set(files.values())
        assert not left
        if self.pacs is None:
            return
        held = self.pacs.uids()
        assert Counter(held.values()) == dict.fromkeys(files, 1)
        for identifier, uid in held.items():
            if uid not in self._compared:
                arrived = self.pacs.file(identifier, self.folder)
                assert dataset_bytes(arrived) == dataset_bytes(self.node.data_dir / files[uid])
                self._compared.add(uid)

    def _receivers(self) -> Holdings | None:
        """The most that a receiver holds; None while not all of them run."""
        pids = self.node.pids("receiver")
        try:
            return holdings(pids) if len(pids) == self.node.receivers else None
        except (FileNotFoundError, ProcessLookupError):
            return None  # one has just died

    def _at_baseline(self) -> bool:
        held = self._receivers()
        assert self._baseline is not None
        return held is not None and not held.exceeds(self._baseline, handles=MORE_HANDLES, memory=MORE_MEMORY)

    def _sockets_of_the_dead(self) -> list[Path]:
        sockets = (self.node.data_dir / "run").glob("*.sock")
        return [path for path in sockets if not Path("/proc", path.name.split(".")[1]).exists()]


def identity(path: Path) -> tuple[str, str]:
    """Study and SOP Instance UID of a file."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    return str(dataset.StudyInstanceUID), str(dataset.SOPInstanceUID)


def dataset_bytes(path: Path) -> bytes:
    """A file without preamble and file meta information."""
    _, offset = split_dataset(path)
    return path.read_bytes()[offset:]
