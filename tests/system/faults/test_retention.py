"""What age takes away, and what it never does: results on their way and what is in quarantine."""

from __future__ import annotations

from pathlib import Path

import pydicom

from tests.peers.dcmtk import storescu
from tests.peers.spool import filled
from tests.peers.waiting import free_port, wait_until
from tests.system.faults.witness import Witness

A_SECOND = 1 / 86400
RETENTION = f"""
[retention]
received = {A_SECOND:.8f}
results = {A_SECOND:.8f}
"""


def test_age_removes_neither_undelivered_results_nor_quarantined_objects(tmp_path: Path) -> None:
    aged = Witness(tmp_path / "site", with_pacs=False, receivers=1, faulty=[("down", "DOWN", free_port())])
    with aged.watching() as witness:
        node = witness.node
        changed = tmp_path / "changed.dcm"
        original = witness.radiograph()
        witness.send(original)
        dataset = pydicom.dcmread(original)
        dataset.StudyDescription = "changed"
        dataset.save_as(changed)
        storescu(node.port, changed)
        assert node.quarantined() == 1
        witness.assert_serves()
        jobs = witness.wait_for_jobs()
        spool, results = node.data_dir / "spool", node.data_dir / "results"
        assert len(filled(spool)) == len(witness.acknowledged) + 1
        made = {node.data_dir / result["file"] for job in jobs for result in job["results"]}
        assert node.stop() == 0
        node.configuration.write_text(node.configuration.read_text() + RETENTION)
        node.start()
        wait_until(lambda: "retention_removed" in node.log, 30, "what is old enough is removed")
        wait_until(lambda: len(filled(spool)) == 1, 10, "the quarantined object alone is left")
        assert node.quarantined() == 1
        assert set(results.rglob("*.dcm")) == made
        assert {d["state"] for job in node.jobs() for d in job["deliveries"]} <= {"pending", "sending"}
        witness.assert_serves()
        assert set(results.rglob("*.dcm")) >= made
        witness.assert_no_patient_in_logs()
