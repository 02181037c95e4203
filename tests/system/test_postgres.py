"""A whole node on Postgres, which is restarted while studies come in."""

from __future__ import annotations

from pathlib import Path

from tests.peers.dcmtk import send
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.peers.postgres import Postgres
from tests.system.conftest import write_radiograph


def test_node_on_postgres_delivers_and_goes_on_after_a_restart_of_the_server(tmp_path: Path) -> None:
    with (
        Postgres(tmp_path / "postgres") as server,
        Orthanc(tmp_path / "pacs") as pacs,
        Node(tmp_path / "node", [("pacs", "ORTHANC", pacs.port)], database=server.create("overread")) as node,
    ):
        for number in (1, 2):
            path = tmp_path / f"{number}.dcm"
            study = write_radiograph(path, number)
            send(node.port, path)
            jobs = node.wait_for_jobs(number)
            assert [job["state"] for job in jobs] == ["succeeded"] * number
            reports = [
                dataset
                for _, dataset in pacs.objects(tmp_path / f"came{number}", str(study.StudyInstanceUID))
                if dataset.Modality == "SR"
            ]
            assert len(reports) == 1
            server.stop()
            server.start()
