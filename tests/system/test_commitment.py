"""Storage commitment of a whole node: results that a PACS commits to, and images that the node commits to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom

from db.records import Reference
from handlers.dimse.commitment import write_request
from tests.peers.committing import CommittingPacs
from tests.peers.dcmtk import send
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.peers.spool import filled
from tests.peers.waiting import wait_until
from tests.system.conftest import write_radiograph


def committing_node(folder: Path, pacs: CommittingPacs | Orthanc) -> Node:
    return Node(folder, [("pacs", pacs.ae_title, pacs.port)], commit=True, receivers=1)


def delivery(node: Node) -> tuple[str, str | None]:
    """State of the only job's deliveries, with the reason."""
    jobs = node.jobs()
    if not jobs or not jobs[0]["deliveries"]:
        return "none", None
    (only,) = jobs[0]["deliveries"]
    return only["state"], only["reason"]


def wait_for_delivery(node: Node, state: str) -> None:
    wait_until(lambda: delivery(node)[0] == state, 180, f"the results are {state}")


def known_as(node: Node) -> dict[str, dict[str, Any]]:
    """How Orthanc is told of the node."""
    return {
        "overread": {
            "AET": "OVERREAD",
            "Host": "127.0.0.1",
            "Port": node.port,
            "AllowStorageCommitment": True,
        }
    }


def test_orthanc_commits_to_results_and_is_committed_to(tmp_path: Path) -> None:
    pacs = Orthanc(tmp_path / "pacs")
    node = committing_node(tmp_path / "node", pacs)
    pacs.modalities = known_as(node)
    image = write_radiograph(tmp_path / "image.dcm", 1)
    with pacs, node:
        send(node.port, tmp_path / "image.dcm")
        wait_for_delivery(node, "committed")
        assert {"subject": "storage commitment of pacs", "ok": True, "message": "offered"} in node.json(
            "check"
        )

        asked = pacs.post(
            "/modalities/overread/storage-commitment",
            {
                "DicomInstances": [
                    {"SOPClassUID": image.SOPClassUID, "SOPInstanceUID": image.SOPInstanceUID},
                    {"SOPClassUID": image.SOPClassUID, "SOPInstanceUID": "1.2.3.4"},
                    {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": image.SOPInstanceUID},
                ]
            },
        )
        wait_until(lambda: pacs.get(asked["Path"])["Status"] != "Pending", 120, "Orthanc has the report")
        report = pacs.get(asked["Path"])
    assert report["Status"] == "Failure"
    assert [item["SOPInstanceUID"] for item in report["Success"]] == [image.SOPInstanceUID]
    assert sorted(item["FailureReason"] for item in report["Failures"]) == [0x0112, 0x0119]


def test_report_over_the_same_association(tmp_path: Path) -> None:
    write_radiograph(tmp_path / "image.dcm", 1)
    with (
        CommittingPacs(over_the_same=True) as pacs,
        committing_node(tmp_path / "node", pacs) as node,
    ):
        send(node.port, tmp_path / "image.dcm")
        wait_for_delivery(node, "committed")
        assert len(pacs.requests) == 1, "one request for all objects of the study"
        assert {r.sop_instance_uid for _, references in pacs.requests for r in references} == set(pacs.stored)


def test_commitment_across_a_restart(tmp_path: Path) -> None:
    """The PACS commits only after the node was killed and started again; nothing is sent twice."""
    write_radiograph(tmp_path / "image.dcm", 1)
    with CommittingPacs() as pacs, committing_node(tmp_path / "node", pacs) as node:
        send(node.port, tmp_path / "image.dcm")
        wait_until(lambda: pacs.requests, 120, "the PACS was asked")
        assert delivery(node) == ("sent", "storage commitment was asked for, no answer yet")
        node.kill()
        node.start()
        (transaction, references) = pacs.requests[0]
        assert pacs.report(node.port, transaction, references) == 0
        wait_for_delivery(node, "committed")
        assert sorted(pacs.stored) == sorted(r.sop_instance_uid for r in references)


def test_modality_is_told_once_it_listens_also_after_a_restart(tmp_path: Path) -> None:
    image = write_radiograph(tmp_path / "image.dcm", 1)
    modality = CommittingPacs("CR1")
    here = Reference(sop_class_uid=str(image.SOPClassUID), sop_instance_uid=str(image.SOPInstanceUID))
    node = Node(tmp_path / "node", [("cr1", "CR1", modality.port)], routed=[], receivers=1, engine=False)
    with node:
        send(node.port, tmp_path / "image.dcm")
        assert modality.ask(node.port, write_request("2.25.77", [here])) == 0
        wait_until(lambda: "commitment_report_delayed" in node.log, 120, "a report found nobody")
        node.kill()
        node.start()
        with modality:
            wait_until(lambda: modality.reports, 120, "the modality has its report")
    (report,) = modality.reports
    assert report.TransactionUID == "2.25.77"
    assert report.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert "FailedSOPSequence" not in report


def test_results_that_the_pacs_lost_are_to_be_sent_again(tmp_path: Path) -> None:
    write_radiograph(tmp_path / "image.dcm", 1)
    with CommittingPacs() as pacs, committing_node(tmp_path / "node", pacs) as node:
        send(node.port, tmp_path / "image.dcm")
        wait_until(lambda: pacs.requests, 120, "the PACS was asked")
        transaction, references = pacs.requests[0]
        assert pacs.report(node.port, transaction, references[1:], {references[0]: 0x0112}) == 0
        wait_for_delivery(node, "pending")
        assert delivery(node)[1] == "not committed: no such object instance (0112)"


def test_received_bytes_are_what_is_committed_to(tmp_path: Path) -> None:
    """An instance whose file is gone is not committed to, whatever the index says."""
    image = write_radiograph(tmp_path / "image.dcm", 1)
    here = Reference(sop_class_uid=str(image.SOPClassUID), sop_instance_uid=str(image.SOPInstanceUID))
    with CommittingPacs("CR1") as modality:
        node = Node(tmp_path / "node", [("cr1", "CR1", modality.port)], routed=[], receivers=1, engine=False)
        with node:
            send(node.port, tmp_path / "image.dcm")
            (stored,) = filled(node.data_dir / "spool")
            assert pydicom.dcmread(stored).SOPInstanceUID == image.SOPInstanceUID
            stored.rename(tmp_path / "elsewhere.dcm")
            assert modality.ask(node.port, write_request("2.25.78", [here])) == 0
            wait_until(lambda: modality.reports, 120, "the modality has its report")
    assert modality.reports[0].FailedSOPSequence[0].FailureReason == 0x0112
