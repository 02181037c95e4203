"""Hostile objects through a whole node: each is reported on or skipped with its reason, and nothing else suffers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless, JPEGExtended12Bit

from tests.peers.dcmtk import storescu
from tests.peers.node import Node
from tests.system.conftest import SIZE, write_radiograph
from tests.system.faults.witness import Witness, identity

LYING = struct.pack(">HHLLLLLLLLHBBB", 41, 0, 2**31, 2**31, 0, 0, 2**31, 2**31, 0, 0, 1, 7, 1, 1)
ESCAPES = b"Canary\x07\x1b[31m^Evil\x08 "


def raw(dataset: Dataset, keyword: str, vr: str, value: bytes) -> None:
    """Put a value into a dataset as it is, valid or not."""
    tag = Tag(keyword)
    dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def coded(dataset: Dataset, syntax: pydicom.uid.UID, frame: bytes) -> None:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True


def nested(depth: int) -> Dataset:
    innermost = Dataset()
    innermost.CodeMeaning = "innermost"
    for _ in range(depth):
        outer = Dataset()
        outer.RequestAttributesSequence = [innermost]
        innermost = outer
    return innermost


def objects(folder: Path) -> dict[str, tuple[list[Path], str | None]]:
    """Files of a study by name, and the reason with which it is skipped; None where it is reported on."""
    made: dict[str, tuple[list[Path], str | None]] = {}

    def study(name: str, reason: str | None, change: Any = None, count: int = 1, **attributes: Any) -> None:
        paths = []
        for number in range(count):
            path = folder / f"{len(made)}-{number}.dcm"
            dataset = write_radiograph(path, len(made), **attributes)
            if change is not None:
                change(dataset)
                dataset.save_as(path, enforce_file_format=True)
            paths.append(path)
        made[name] = (paths, reason)

    pixels = SIZE * SIZE
    study("no pixels", "the object has no integer pixel data", lambda d: d.pop("PixelData"))
    study(
        "pixels too short",
        f"the pixel data has 100 bytes where {pixels} are needed",
        lambda d: raw(d, "PixelData", "OB", bytes(100)),
    )
    study("phantom frames", None, lambda d: raw(d, "PixelData", "OB", d.PixelData * 3))
    study(
        "codestream that lies",
        f"2147483648 x 2147483648 pixels, the header says {SIZE} x {SIZE}",
        lambda d: coded(d, JPEG2000Lossless, b"\xff\x4f\xff\x51" + LYING + b"\xff\xd9"),
    )
    study(
        "twelve-bit JPEG",
        "the pixel data is damaged",
        lambda d: coded(d, JPEGExtended12Bit, b"\xff\xd8\xff\xd9"),
    )
    for slope in (b"NaN ", b"0 ", b"1e300 "):

        def rescale(dataset: Dataset, slope: bytes = slope) -> None:
            raw(dataset, "RescaleSlope", "DS", slope)
            dataset.RescaleIntercept = "0"

        study(f"slope {slope.decode()}", "Rescale Slope ", rescale)
    study("deep nesting", "sequences are nested more than 64 deep", lambda d: d.update(nested(80)))

    def escapes(dataset: Dataset) -> None:
        raw(dataset, "PatientName", "PN", ESCAPES)
        raw(dataset, "StudyDescription", "LO", ESCAPES)

    study(
        "control characters",
        None,
        escapes,
    )
    study(
        "wrong character set",
        None,
        lambda d: raw(d, "PatientName", "PN", b"\xff\xfe\x1b$B"),
        SpecificCharacterSet="ISO_IR 999",
    )
    study("other patients in one series", "of 2 patients", count=2)
    (first, second), _ = made["other patients in one series"]
    dataset, other = pydicom.dcmread(first), pydicom.dcmread(second)
    other.StudyInstanceUID, other.SeriesInstanceUID = dataset.StudyInstanceUID, dataset.SeriesInstanceUID
    other.PatientID = "CANARY-OTHER"
    other.save_as(second, enforce_file_format=True)
    return made


def results(node: Node, job: dict[str, Any]) -> list[Dataset]:
    return [pydicom.dcmread(node.data_dir / result["file"]) for result in job["results"]]


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    """One node for all of them; none of its processes dies."""
    with Witness(tmp_path_factory.mktemp("hostile"), receivers=1).watching() as witness:
        yield witness
    assert "process_died" not in witness.node.log


def test_each_hostile_study_ends_with_a_report_or_its_reason(witness: Witness, tmp_path: Path) -> None:
    made = objects(tmp_path)
    node = witness.node
    workers = node.pids("worker")
    expected: dict[str, tuple[str, str | None]] = {}
    for name, (paths, reason) in made.items():
        storescu(node.port, *paths)
        for path in paths:
            witness.note(path)
        expected[identity(paths[0])[0]] = name, reason
    witness.assert_serves()
    jobs = [job for job in witness.wait_for_jobs() if job["study_instance_uid"] in expected]
    assert len(jobs) == len(expected)
    for job in jobs:
        name, reason = expected[job["study_instance_uid"]]
        if reason is None:
            assert job["state"] == "succeeded", (name, job["reason"])
            source = pydicom.dcmread(made[name][0][0])
            for written in results(node, job):
                assert written.get_item("PatientName").value == source.get_item("PatientName").value
        else:
            assert job["state"] == "skipped" and reason in job["reason"], (name, job["reason"])
            assert job["results"] == []
    assert node.pids("worker") == workers
    refused = next(job for job in jobs if job["state"] == "skipped")
    assert refused["reason"] in " ".join(node.command("show", str(refused["id"])).split())
    witness.assert_intact({study: "skipped" for study, (_, reason) in expected.items() if reason})


def test_patients_that_share_a_study_each_get_their_own_report(witness: Witness, tmp_path: Path) -> None:
    node = witness.node
    before = len(node.jobs())
    first = write_radiograph(tmp_path / "1.dcm", 1)
    write_radiograph(tmp_path / "2.dcm", 2, StudyInstanceUID=first.StudyInstanceUID)
    storescu(node.port, tmp_path / "1.dcm", tmp_path / "2.dcm")
    patients: dict[str, set[str]] = {}
    for job in node.wait_for_jobs(before + 2):
        if job["study_instance_uid"] == first.StudyInstanceUID:
            for written in results(node, job):
                patients.setdefault(job["series_instance_uid"], set()).add(written.PatientID)
    assert sorted(map(sorted, patients.values())) == [["CANARY-1"], ["CANARY-2"]]


def test_infer_runs_nothing_and_writes_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    good = write_radiograph(folder / "executable.dcm", 1)
    data = (folder / "executable.dcm").read_bytes()
    preamble = b"MZ\x90\x00\x7fELF" + b"#!/bin/sh\ntouch owned\n"
    (folder / "executable.dcm").write_bytes(preamble.ljust(128, b"\xcc") + data[128:])
    climbing = write_radiograph(folder / "climbing.dcm", 2)
    raw(climbing, "SOPInstanceUID", "UI", b"../../climbed\0")
    climbing.save_as(folder / "climbing.dcm", enforce_file_format=True)
    node = Node(tmp_path / "node")
    out = tmp_path / "results" / "out"
    cases = {
        Path(case["input"]).name: case
        for case in node.json("infer", str(folder), "--engine", "cxr", "--out", str(out))
    }
    assert cases["climbing.dcm"]["skipped"] == "the SOP Instance UID is no UID"
    assert cases["executable.dcm"]["skipped"] is None
    assert sorted(path.name for path in out.iterdir()) == sorted([str(good.SOPInstanceUID), "results.csv"])
    assert list((tmp_path / "results").iterdir()) == [out]
    objects_written = sorted(out.rglob("*.dcm"))
    assert objects_written
    for path in objects_written:
        assert path.read_bytes()[:132] == bytes(128) + b"DICM"
