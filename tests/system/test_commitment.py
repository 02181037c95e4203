"""Storage commitment of a whole node: results that a PACS commits to, and images that the node commits to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from db.records import Reference
from handlers.dimse.commitment import write_request
from tests.peers.committing import CommittingPacs
from tests.peers.dcmtk import send
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.peers.spool import filled
from tests.peers.waiting import wait_until
from tests.system.conftest import write_radiograph

ENGINE = """
[[engine]]
name = "cxr"
kind = "chest_xray"
model = "demo"
backend = "torch"
"""
ROUTE = """
[[route]]
name = "{name}"
match = {{ Modality = ["CR"], StudyDescription = "{name}" }}
engines = ["cxr"]
destinations = ["{name}"]
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One node, and peers that each get the studies of their name; modalities only ask."""

    node: Node
    orthanc: Orthanc
    pacs: dict[str, CommittingPacs]
    modalities: dict[str, CommittingPacs]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("commitment")
    orthanc = Orthanc(folder / "orthanc")
    pacs = {
        "at-once": CommittingPacs("ATONCE", over_the_same=True),
        "late": CommittingPacs("LATE"),
        "loses": CommittingPacs("LOSES"),
    }
    modalities = {"cr1": CommittingPacs("CR1"), "cr2": CommittingPacs("CR2")}
    routed = ["orthanc", *pacs]
    node = Node(
        folder / "node",
        [
            ("orthanc", orthanc.ae_title, orthanc.port),
            *((name, peer.ae_title, peer.port) for name, peer in (pacs | modalities).items()),
        ],
        commit=True,
        receivers=1,
        engine=False,
        extra=ENGINE + "".join(ROUTE.format(name=name) for name in routed),
    )
    orthanc.modalities = {
        "overread": {
            "AET": "OVERREAD",
            "Host": "127.0.0.1",
            "Port": node.port,
            "AllowStorageCommitment": True,
        }
    }
    with node:
        yield Site(node=node, orthanc=orthanc, pacs=pacs, modalities=modalities)


def send_study(node: Node, folder: Path, name: str) -> Dataset:
    """A radiograph for the PACS of that name."""
    image = write_radiograph(folder / "image.dcm", 1, StudyDescription=name)
    send(node.port, folder / "image.dcm")
    return image


def delivery(node: Node, image: Dataset) -> tuple[str, str | None]:
    """State of the deliveries of an image's only job, with the reason."""
    jobs = [job for job in node.jobs() if job["study_instance_uid"] == image.StudyInstanceUID]
    if not jobs or not jobs[0]["deliveries"]:
        return "none", None
    (only,) = jobs[0]["deliveries"]
    return only["state"], only["reason"]


def wait_for_delivery(node: Node, image: Dataset, state: str) -> None:
    wait_until(lambda: delivery(node, image)[0] == state, 180, f"the results are {state}")


def reference(image: Dataset) -> Reference:
    return Reference(sop_class_uid=str(image.SOPClassUID), sop_instance_uid=str(image.SOPInstanceUID))


def test_orthanc_commits_to_results_and_is_committed_to(site: Site, tmp_path: Path) -> None:
    with site.orthanc:
        image = send_study(site.node, tmp_path, "orthanc")
        wait_for_delivery(site.node, image, "committed")
        found = site.node.json("check", status=1)  # others are not there
        assert {"subject": "storage commitment of orthanc", "ok": True, "message": "offered"} in found

        asked = site.orthanc.post(
            "/modalities/overread/storage-commitment",
            {
                "DicomInstances": [
                    {"SOPClassUID": image.SOPClassUID, "SOPInstanceUID": image.SOPInstanceUID},
                    {"SOPClassUID": image.SOPClassUID, "SOPInstanceUID": "1.2.3.4"},
                    {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": image.SOPInstanceUID},
                ]
            },
        )
        wait_until(
            lambda: site.orthanc.get(asked["Path"])["Status"] != "Pending", 120, "Orthanc has the report"
        )
        report = site.orthanc.get(asked["Path"])
    assert report["Status"] == "Failure"
    assert [item["SOPInstanceUID"] for item in report["Success"]] == [image.SOPInstanceUID]
    assert sorted(item["FailureReason"] for item in report["Failures"]) == [0x0112, 0x0119]


def test_report_over_the_same_association(site: Site, tmp_path: Path) -> None:
    with site.pacs["at-once"] as pacs:
        image = send_study(site.node, tmp_path, "at-once")
        wait_for_delivery(site.node, image, "committed")
        assert len(pacs.requests) == 1, "one request for all objects of the study"
        assert {r.sop_instance_uid for _, references in pacs.requests for r in references} == set(pacs.stored)


def test_commitment_across_a_restart(site: Site, tmp_path: Path) -> None:
    """The PACS commits only after the node was killed and started again; nothing is sent twice."""
    with site.pacs["late"] as pacs:
        image = send_study(site.node, tmp_path, "late")
        wait_until(lambda: pacs.requests, 120, "the PACS was asked")
        assert delivery(site.node, image) == ("sent", "storage commitment was asked for, no answer yet")
        site.node.kill()
        site.node.start()
        (transaction, references) = pacs.requests[0]
        assert pacs.report(site.node.port, transaction, references) == 0
        wait_for_delivery(site.node, image, "committed")
        assert sorted(pacs.stored) == sorted(r.sop_instance_uid for r in references)


def test_modality_is_told_once_it_listens_also_after_a_restart(site: Site, tmp_path: Path) -> None:
    node, modality = site.node, site.modalities["cr1"]
    image = send_study(node, tmp_path, "none")
    assert modality.ask(node.port, write_request("2.25.77", [reference(image)])) == 0
    wait_until(lambda: "commitment_report_delayed" in node.log, 120, "a report found nobody")
    node.kill()
    node.start()
    with modality:
        wait_until(lambda: modality.reports, 120, "the modality has its report")
    (report,) = modality.reports
    assert report.TransactionUID == "2.25.77"
    assert report.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert "FailedSOPSequence" not in report


def test_results_that_the_pacs_lost_are_to_be_sent_again(site: Site, tmp_path: Path) -> None:
    with site.pacs["loses"] as pacs:
        image = send_study(site.node, tmp_path, "loses")
        wait_until(lambda: pacs.requests, 120, "the PACS was asked")
        transaction, references = pacs.requests[0]
        assert pacs.report(site.node.port, transaction, references[1:], {references[0]: 0x0112}) == 0
        wait_for_delivery(site.node, image, "pending")
        assert delivery(site.node, image)[1] == "not committed: no such object instance (0112)"


def test_received_bytes_are_what_is_committed_to(site: Site, tmp_path: Path) -> None:
    """An instance whose file is gone is not committed to, whatever the index says."""
    node = site.node
    with site.modalities["cr2"] as modality:
        image = send_study(node, tmp_path, "none")
        (stored,) = [
            path
            for path in filled(node.data_dir / "spool")
            if pydicom.dcmread(path).SOPInstanceUID == image.SOPInstanceUID
        ]
        stored.rename(tmp_path / "elsewhere.dcm")
        assert modality.ask(node.port, write_request("2.25.78", [reference(image)])) == 0
        wait_until(lambda: modality.reports, 120, "the modality has its report")
    assert modality.reports[0].FailedSOPSequence[0].FailureReason == 0x0112
