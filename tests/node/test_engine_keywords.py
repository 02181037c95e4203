"""What engines of other distributions select by is indexed by receivers, which load none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from db.database import Database
from db.index import Index
from handlers.sending.sender import Sender
from handlers.settings import Destination
from handlers.spool.part10 import scan_file
from handlers.spool.scan import USUAL_KEYWORDS
from inference.engines import engine_class, engine_kinds, registered_kinds
from node.commands.send import describe_file
from node.configuration.loading import load
from node.processes.engine_keywords import engine_keywords
from node.processes.libraries import Role
from node.processes.process import make_folders
from node.processes.supervisor import Child, Supervisor
from tests.handlers.conftest import write_object
from tests.peers.waiting import free_port

PLUG_IN = """
import numpy

print("words of a plug-in")

class Odd:
    kind = "odd"
    header_keywords = frozenset({"DetectorID", "Modality"})

class Broken:
    kind = "broken"

    def __getattr__(self, name):
        raise RuntimeError(name)
"""
ENTRY_POINTS = "[overread.engines]\nodd = odd:Odd\nbroken = odd:Broken\nabsent = nowhere:Absent\n"


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution with engines of its own."""
    folder = tmp_path / "plugins"
    metadata = folder / "odd-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "odd.py").write_text(PLUG_IN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return folder


def test_receivers_index_what_built_in_engines_select_by() -> None:
    for kind in set(engine_kinds()) - set(registered_kinds()):
        assert engine_class(kind).header_keywords <= USUAL_KEYWORDS, kind


def test_engines_of_others_are_asked_and_those_that_fail_are_named(
    plug_in: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert registered_kinds() == ("absent", "broken", "odd")
    assert engine_keywords(["chest_xray"]) == frozenset()
    assert caplog.text == ""
    assert engine_keywords(["odd", "broken", "chest_xray", "absent", "odd"]) == {"DetectorID", "Modality"}
    assert [record.getMessage() for record in caplog.records] == [
        "engine_not_asked kind=absent error=CalledProcessError",
        "engine_not_asked kind=broken error=CalledProcessError",
    ]
    assert "odd" not in sys.modules


def test_supervisor_tells_receivers(plug_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text('[[engine]]\nname = "odd"\nkind = "odd"\nmodel = "none"\n')
    started: list[list[str]] = []
    supervisor = Supervisor(load(tmp_path / "config.toml"), lock=0)
    monkeypatch.setattr(
        "node.processes.supervisor.subprocess.Popen", lambda command, **_: started.append(command)
    )
    for role in (Role.RECEIVER, Role.WORKER):
        child = Child(role=role, number=0)
        supervisor._start(child)
        child.forget_pipe()
    assert started[0][-3:] == ["--keywords", "DetectorID", "Modality"]
    assert "--keywords" not in started[1]


@contextmanager
def receiver(file: Path, keywords: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A receiver as the supervisor starts it."""
    listens, ours = os.pipe()
    command = [sys.executable, "-m", "node.processes.child", str(file), "--role", "receiver", "--number", "0"]
    command += ["--parent", str(os.getpid()), "--ready", str(ours), "--keywords", *keywords]
    process = subprocess.Popen(command, pass_fds=[ours])
    os.close(ours)
    try:
        assert os.read(listens, 1) == b"!"
        yield process
    finally:
        os.close(listens)
        process.terminate()
        process.wait(60)


def test_receiver_indexes_them_without_loading_numpy(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "config.toml").write_text(
        f'[node]\nport = {port}\n[[route]]\nname = "r"\nmatch = {{ StationName = "x" }}\n'
        "engines = []\ndestinations = []\n"
    )
    configuration = load(tmp_path / "config.toml")
    make_folders(configuration)
    database = Database.open(configuration.database_settings())
    database.upgrade()
    sent = write_object(tmp_path / "scan.dcm", DetectorID="D7", StationName="x")
    file = describe_file(tmp_path / "scan.dcm")
    assert file is not None
    with receiver(configuration.file, ["DetectorID"]) as process:
        destination = Destination(name="node", ae_title="OVERREAD", host="127.0.0.1", port=port)
        (result,) = Sender(destination, "MODALITY").send([file])
        assert result.delivered
        assert "numpy" not in Path(f"/proc/{process.pid}/maps").read_text()
    found = Index(database).find_instance(str(sent.SOPInstanceUID))
    database.close()
    assert found is not None
    assert found.attributes["DetectorID"] == "D7"
    keywords = configuration.receiver_settings(frozenset({"DetectorID"})).attributes
    assert scan_file(tmp_path / "scan.dcm", keywords) == found.attributes
