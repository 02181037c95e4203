"""Every image engine with seeded weights on a real radiograph through the node, up to valid reports."""

from __future__ import annotations

from pathlib import Path

from inference.store import ModelStore
from tests.inference.test_engine_contract import MODELS, seeded_model
from tests.peers.dcmtk import send
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.validators import dciodvfy_errors, require_validators, sr_validator_errors

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"

ENGINE = """
[[engine]]
name = "{kind}"
kind = "{kind}"
model = "{kind}"
backend = "{backend}"
"""
ROUTE = """
[[route]]
name = "all engines"
match = {{ Modality = "CR" }}
engines = [{engines}]
destinations = ["pacs"]
"""


def test_real_radiograph_becomes_valid_reports_of_every_engine(real_data: Path, tmp_path: Path) -> None:
    require_validators()
    kinds = sorted(MODELS)
    extra = "".join(
        ENGINE.format(kind=kind, backend="openvino" if kind == "chest_xray" else "torch") for kind in kinds
    ) + ROUTE.format(engines=", ".join(f'"{kind}"' for kind in kinds))
    with Orthanc(tmp_path / "pacs") as pacs:
        node = Node(tmp_path / "node", [("pacs", "ORTHANC", pacs.port)], receivers=1, extra=extra)
        store = ModelStore(node.data_dir / "models")
        for kind in kinds:
            seeded_model(store, kind, name=kind)
        with node:
            send(node.port, real_data / "cxr" / "rsna_pa_monochrome1.dcm")
            jobs = node.wait_for_jobs(len(kinds) + 1, 120)
            assert {job["engine"]: job["state"] for job in jobs} == dict.fromkeys(
                [*kinds, "cxr"], "succeeded"
            )
        objects = pacs.objects(tmp_path / "objects")
    reports = [path for path, dataset in objects if dataset.SOPClassUID == COMPREHENSIVE_3D_SR]
    assert len(reports) == len(kinds) + 1
    assert {path.name: errors for path, _ in objects if (errors := dciodvfy_errors(path))} == {}
    assert {path.name: errors for path in reports if (errors := sr_validator_errors(path))} == {}
