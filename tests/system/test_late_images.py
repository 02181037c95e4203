"""Images that arrive after a study was reported: a new revision where they matter, nothing where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sr_writer.text import render_text
from tests.peers.dcmtk import send
from tests.peers.waiting import wait_until
from tests.system.conftest import Site, write_radiograph
from tests.validators import dciodvfy_errors

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture
def first(site: Site, tmp_path: Path) -> tuple[str, str]:
    """Study and series of a frontal view that has been reported."""
    before = len(site.node.jobs())
    dataset = write_radiograph(tmp_path / "first.dcm", 1)
    send(site.node.port, tmp_path / "first.dcm")
    site.node.wait_for_jobs(before + 1)
    return str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID)


def test_second_frontal_view_makes_a_revision_that_names_its_predecessor(
    site: Site, first: tuple[str, str], tmp_path: Path
) -> None:
    study, series = first
    (job,) = site.node.json("show", study)["jobs"]
    write_radiograph(
        tmp_path / "second.dcm",
        2,
        StudyInstanceUID=study,
        SeriesInstanceUID=series,
        InstanceNumber=2,
        PatientID="CANARY-1",
        PatientName="Canary^Patient1",
        AccessionNumber="1",
    )
    send(site.node.port, tmp_path / "second.dcm")
    jobs = wait_for_study(site, study, 2)
    assert [j["state"] for j in jobs] == ["superseded", "succeeded"]
    assert jobs[1]["predecessor"] == job["id"]
    reports = {
        str(d.SOPInstanceUID): (path, d)
        for path, d in site.pacs.objects(tmp_path / "o", study)
        if d.SOPClassUID == COMPREHENSIVE_3D_SR
    }
    assert len(reports) == 2
    (former,) = [r["sop_instance_uid"] for r in jobs[0]["results"] if r["kind"] == "sr"]
    (latter,) = [r["sop_instance_uid"] for r in jobs[1]["results"] if r["kind"] == "sr"]
    path, report = reports[latter]
    (named,) = [
        str(instance.ReferencedSOPInstanceUID)
        for item in report.PredecessorDocumentsSequence
        for series_item in item.ReferencedSeriesSequence
        for instance in series_item.ReferencedSOPSequence
    ]
    assert named == former
    assert dciodvfy_errors(path) == []
    assert render_text(report)


def test_lateral_view_changes_nothing(site: Site, first: tuple[str, str], tmp_path: Path) -> None:
    study, series = first
    write_radiograph(
        tmp_path / "lateral.dcm",
        2,
        StudyInstanceUID=study,
        SeriesInstanceUID=series,
        InstanceNumber=2,
        ViewPosition="LL",
        PatientID="CANARY-1",
        PatientName="Canary^Patient1",
        AccessionNumber="1",
    )
    send(site.node.port, tmp_path / "lateral.dcm")
    (job,) = wait_for_study(site, study, 1, instances=2)
    assert job["state"] == "succeeded"
    assert job["revision"] == 1


def wait_for_study(site: Site, study: str, jobs: int, instances: int | None = None) -> list[dict[str, Any]]:
    """The jobs of a study, oldest first, once it is complete again and has that many."""

    def done() -> list[dict[str, Any]] | None:
        shown = site.node.study(study)
        if shown is None:
            return None
        count = sum(len(s["instances"]) for s in shown["series"])
        ended = all(j["state"] in ("succeeded", "superseded", "failed", "skipped") for j in shown["jobs"])
        sent = all(d["state"] == "sent" for j in shown["jobs"] for d in j["deliveries"])
        if shown["state"] != "complete" or len(shown["jobs"]) != jobs or not ended or not sent:
            return None
        if instances is not None and count != instances:
            return None
        return sorted(shown["jobs"], key=lambda j: int(j["id"]))

    return wait_until(done, 60, "the study is complete again")
