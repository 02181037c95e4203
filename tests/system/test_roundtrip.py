"""A study goes to the node by C-STORE and comes back to the PACS as a report with overlays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from sr_writer.text import findings_table
from tests.peers.dcmtk import Storescp, findscu, run, send, storescu
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.peers.spool import filled
from tests.system.conftest import Site
from tests.system.faults.witness import dataset_bytes
from tests.validators import dciodvfy_errors, require_validators, sr_validator_errors

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CHEST = ("rsna_pa_jpeg_sc_class.dcm", "rsna_pa_monochrome1.dcm")
NOT_CHEST = (
    "transfer_syntaxes/RG2_J2KR.dcm",
    "transfer_syntaxes/CT1_J2KI.dcm",
    "transfer_syntaxes/CT1_JLSL.dcm",
    "transfer_syntaxes/CT1_JPLL.dcm",
    "transfer_syntaxes/CT1_RLE.dcm",
    "transfer_syntaxes/MR1_JPLL.dcm",
    "transfer_syntaxes/MR1_RLE.dcm",
)


def uid_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storescp]:
    """A node that the results may be moved to, and that gets none by itself."""
    with Storescp(tmp_path_factory.mktemp("third"), "THIRD") as third:
        yield third


@pytest.fixture(scope="module")
def site(third: Storescp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running node that delivers to an Orthanc and knows a third node."""
    folder = tmp_path_factory.mktemp("site")
    with Orthanc(folder / "pacs") as pacs:
        destinations = [("pacs", "ORTHANC", pacs.port), ("third", "THIRD", third.port)]
        with Node(folder / "node", destinations, routed=["pacs"]) as node:
            yield Site(node=node, pacs=pacs)


@pytest.fixture(scope="module")
def returned(site: Site, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the PACS holds of each chest radiograph once the node has ended its work, by file name."""
    for name in CHEST:
        send(site.node.port, real_data / "cxr" / name)
    site.node.wait_for_jobs(len(CHEST))
    folder = tmp_path_factory.mktemp("returned")
    return {name: site.pacs.objects(folder, uid_of(real_data / "cxr" / name)) for name in CHEST}


@pytest.mark.parametrize("name", CHEST)
def test_report_and_overlays_come_back_and_conform(returned: dict[str, Any], name: str) -> None:
    require_validators()
    objects = returned[name]
    reports = [path for path, dataset in objects if dataset.SOPClassUID == COMPREHENSIVE_3D_SR]
    overlays = [path for path, dataset in objects if dataset.SOPClassUID == SECONDARY_CAPTURE]
    assert len(reports) == 1
    assert overlays
    assert len(objects) == 1 + len(overlays)
    assert {path.name: dciodvfy_errors(path) for path, _ in objects} == {path.name: [] for path, _ in objects}


@pytest.mark.parametrize("name", CHEST)
def test_report_satisfies_the_template(returned: dict[str, Any], name: str) -> None:
    require_validators()
    (report,) = [path for path, dataset in returned[name] if dataset.SOPClassUID == COMPREHENSIVE_3D_SR]
    assert sr_validator_errors(report) == []


def test_one_picture_in_two_grey_scales_gives_the_same_probabilities(returned: dict[str, Any]) -> None:
    first, second = (
        {
            row.finding: row.certainty_percent / 100
            for _, dataset in returned[name]
            if dataset.SOPClassUID == COMPREHENSIVE_3D_SR
            for row in findings_table(dataset)
        }
        for name in CHEST
    )
    assert first.keys() == second.keys()
    assert first == pytest.approx(second, abs=0.02)


def test_objects_of_the_demonstration_model_say_so(returned: dict[str, Any]) -> None:
    words = "demonstration model, not for clinical use"
    for objects in returned.values():
        for _, dataset in objects:
            assert words in dataset.to_json().replace("\\u00a0", " ").lower()


def test_same_uid_with_other_bytes_is_quarantined_and_changes_nothing(
    site: Site, real_data: Path, returned: dict[str, Any]
) -> None:
    other = real_data / "cxr" / "rsna_pa_same_uid_other_bytes.dcm"
    before = site.node.json("show", uid_of(other))
    send(site.node.port, other)
    after = site.node.json("show", uid_of(other))
    (entry,) = after["quarantined"]
    assert entry["sop_instance_uid"] == pydicom.dcmread(other, stop_before_pixels=True).SOPInstanceUID
    assert dataset_bytes(site.node.data_dir / entry["file"]) == dataset_bytes(other)
    assert after["jobs"] == before["jobs"]
    assert after["series"] == before["series"]
    assert "received before with other content" in site.node.command("show", uid_of(other))


def test_duplicate_is_acknowledged_and_stored_once(
    site: Site, real_data: Path, returned: dict[str, Any]
) -> None:
    again = real_data / "cxr" / CHEST[1]
    before = site.node.json("show", uid_of(again))
    files = len(filled(site.node.data_dir / "spool"))
    send(site.node.port, again)
    assert site.node.json("show", uid_of(again))["jobs"] == before["jobs"]
    assert len(filled(site.node.data_dir / "spool")) == files


def test_what_no_rule_takes_is_kept_as_it_came_and_skipped_with_the_reason(
    site: Site, real_data: Path, returned: dict[str, Any], tmp_path: Path
) -> None:
    """storescu writes sequence lengths anew, so that a bit-preserving storescp says what it sends."""
    with Storescp(tmp_path / "as-sent", "SENT", "+B", "+xa") as witness:
        for name in NOT_CHEST:
            send(site.node.port, real_data / name)
            storescu(witness.port, real_data / name, called="SENT")
        as_sent = {str(pydicom.dcmread(path).SOPInstanceUID): dataset_bytes(path) for path in witness.files()}
    site.node.wait_for_jobs(len(CHEST) + len(NOT_CHEST))
    for name in NOT_CHEST:
        study = site.node.json("show", uid_of(real_data / name))
        kept = {
            instance["sop_instance_uid"]: dataset_bytes(site.node.data_dir / instance["file"])
            for series in study["series"]
            for instance in series["instances"]
        }
        assert kept == {uid: as_sent[uid] for uid in kept}
        (job,) = study["jobs"]
        assert job["state"] == "skipped"
        modality = study["series"][0]["modality"]
        assert ("HIP" if modality == "CR" else f"it is {modality}") in job["reason"]


def test_query_returns_exactly_the_results(site: Site, returned: dict[str, Any]) -> None:
    expected = {str(dataset.SOPInstanceUID) for objects in returned.values() for _, dataset in objects}
    answers = findscu(site.node.port, "IMAGE", "SOPInstanceUID")
    assert {answer["SOPInstanceUID"] for answer in answers} == expected
    assert len(answers) == len(expected)


def test_get_returns_exactly_the_results(site: Site, returned: dict[str, Any], tmp_path: Path) -> None:
    objects = returned[CHEST[0]]
    study = str(objects[0][1].StudyInstanceUID)
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
    run("getscu", "-S", "-aec", "OVERREAD", "127.0.0.1", str(site.node.port), *keys, folder=tmp_path)
    got = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in tmp_path.iterdir()}
    assert got.keys() == {str(dataset.SOPInstanceUID) for _, dataset in objects}


def test_move_brings_the_results_to_a_third_node(
    site: Site, third: Storescp, returned: dict[str, Any]
) -> None:
    expected = {str(dataset.SOPInstanceUID) for _, dataset in returned[CHEST[1]]}
    study = str(returned[CHEST[1]][0][1].StudyInstanceUID)
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
    run("movescu", "-S", "-aec", "OVERREAD", "-aem", "THIRD", "127.0.0.1", str(site.node.port), *keys)
    moved = {str(pydicom.dcmread(path, force=True).SOPInstanceUID) for path in third.files()}
    assert moved == expected
