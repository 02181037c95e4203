"""A node that compresses its overlays, with a PACS that takes JPEG Baseline and one that does not."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage

from tests.peers.dcmtk import Storescp, send
from tests.peers.node import Node
from tests.system.conftest import write_radiograph
from tests.validators import dciodvfy_errors, require_validators


def test_pacs_gets_small_overlays_and_check_names_the_one_that_does_not_take_them(tmp_path: Path) -> None:
    require_validators()
    study = tmp_path / "study.dcm"
    write_radiograph(study, 1)
    with (
        Storescp(tmp_path / "modern", "MODERN", "+xy") as modern,
        Storescp(tmp_path / "old", "OLD") as old,
        Node(
            tmp_path / "node",
            [("modern", "MODERN", modern.port), ("old", "OLD", old.port)],
            receivers=1,
            extra='\n[overlay]\ncompression = "jpeg"\n',
        ) as node,
    ):
        found = {entry["subject"]: entry for entry in node.json("check", status=1)}
        assert found["overlays for modern"]["ok"]
        assert "overlay.compression" in found["overlays for old"]["message"]
        send(node.port, study)
        (job,) = node.wait_for_jobs(1)
        arrived = [(path, pydicom.dcmread(path)) for path in modern.files()]
        overlays = [(path, d) for path, d in arrived if d.SOPClassUID == SecondaryCaptureImageStorage]
        assert overlays
        assert len(arrived) == len(overlays) + 1
        for path, overlay in overlays:
            assert overlay.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
            assert overlay.pixel_array.shape[2] == 3
            assert path.stat().st_size < 1_500_000
            assert dciodvfy_errors(path) == []
        (report,) = old.files()
        assert pydicom.dcmread(report).Modality == "SR"
        reasons = {d["destination"]: d["state"] for d in job["deliveries"] if d["state"] == "failed"}
        assert reasons == {"old": "failed"}
