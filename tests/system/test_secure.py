"""A whole node with TLS in both directions and its audit trail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

from tests.peers.certificates import Authority
from tests.peers.dcmtk import Storescp, run
from tests.peers.node import Node
from tests.peers.waiting import free_port
from tests.system.conftest import write_radiograph

SECURE = """
[tls]
certificate = "{certificate}"
key = "{key}"
ca = "{ca}"
port = {tls_port}

[[destination]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}
tls = true
"""


def kind(message: Element) -> tuple[str, str]:
    """Event type, or else the event, and the action."""
    head = message.find("EventIdentification")
    assert head is not None
    coded = [child for child in head if "csd-code" in child.attrib]
    return coded[-1].attrib["csd-code"], head.attrib["EventActionCode"]


def test_study_comes_and_goes_over_tls_and_is_audited(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    ours, theirs = authority.issue("node"), authority.issue("peer")
    trusted = ("+tls", theirs.key, theirs.certificate, "+cf", authority.certificate)
    tls_port = free_port()
    study = write_radiograph(tmp_path / "study.dcm", 1)
    with Storescp(tmp_path / "pacs", "PACS", *map(str, trusted)) as pacs:
        extra = SECURE.format(
            certificate=ours.certificate,
            key=ours.key,
            ca=authority.certificate,
            tls_port=tls_port,
            pacs_port=pacs.port,
        )
        with Node(tmp_path / "node", routed=["pacs"], extra=extra) as node:
            run("storescu", *trusted, "-aec", "OVERREAD", "127.0.0.1", str(tls_port), tmp_path / "study.dcm")
            (job,) = node.wait_for_jobs(1)
            assert {delivery["state"] for delivery in job["deliveries"]} == {"sent"}
            checked = {finding["subject"]: finding["ok"] for finding in node.json("check")}
            assert checked["destination pacs"]
            here = f"OVERREAD@127.0.0.1:{tls_port}"
            assert "answers in" in node.command("echo", "--tls", here)
            assert "does not answer" in node.command("echo", here, status=1)
            assert "1 sent" in node.command("send", "--tls", "--to", here, str(tmp_path / "study.dcm"))
            keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study.StudyInstanceUID}")
            run("getscu", "-S", "-aec", "OVERREAD", "127.0.0.1", str(node.port), *keys, folder=tmp_path)
        assert len(pacs.files()) == len(job["results"])
    text = "".join(path.read_text() for path in sorted((node.data_dir / "audit").iterdir()))
    messages = [fromstring(line) for line in text.splitlines()]
    kinds = Counter(kind(message) for message in messages)
    assert kind(messages[0]) == ("110120", "E")
    assert kind(messages[-1]) == ("110121", "E")
    assert kinds["110104", "C"] == 2
    assert kinds["110126", "E"] == 1  # the echo in clear on the port with TLS
    sent = [message for message in messages if kind(message) == ("110104", "R")]
    for receiver in ("PACS", "GETSCU"):
        counts = [
            int(counted.attrib["NumberOfInstances"])
            for message in sent
            if message.findall("ActiveParticipant")[1].attrib["UserID"] == receiver
            for counted in message.iter("SOPClass")
        ]
        assert sum(counts) == len(job["results"])
    assert "canary" not in text.lower()
    assert "canary" not in node.log.lower()
