"""What every process of the node shares."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.configuration.loading import load
from node.errors import CommandError, raised_at
from node.processes.process import hold_data_folder, process_name
from node.processes.serving import worker_groups

ODD_VALUE = """
from node.log import configure_log
configure_log("test")
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
name = b"Canary^" + b"x" * 60
data = b"\\x10\\x00\\x10\\x00PN" + len(name).to_bytes(2, "little") + name + b"\\x08\\x00\\x18\\x00UI\\x04\\x0099.."
data += b"\\x10\\x00\\x30\\x00DA\\x06\\x00Canary"
dataset = read_dataset(DicomBytesIO(data), False, True)
print(dataset.PatientName, dataset.SOPInstanceUID, dataset.PatientBirthDate)
"""


def test_odd_values_are_not_quoted_in_the_log() -> None:
    done = subprocess.run([sys.executable, "-c", ODD_VALUE], capture_output=True, text=True, check=True)
    assert "Canary" in done.stdout
    assert done.stderr == ""


def test_data_folder_is_for_one_node_and_the_processes_that_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.processes.process.FORMER_NODE_SECONDS", 0.3)
    (tmp_path / "config.toml").write_text("")
    configuration = load(tmp_path / "config.toml")
    held = hold_data_folder(configuration, whole=True)
    with pytest.raises(CommandError, match="Another node uses"):
        hold_data_folder(configuration, whole=True)
    left = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, pass_fds=[held])
    os.close(held)
    with pytest.raises(CommandError, match="Another node uses"):
        hold_data_folder(configuration, whole=True)
    left.communicate()
    roles = [hold_data_folder(configuration, whole=False) for _ in range(2)]
    with pytest.raises(CommandError, match="Another node uses"):
        hold_data_folder(configuration, whole=True)
    for role in roles:
        os.close(role)
    os.close(hold_data_folder(configuration, whole=True))


def test_place_of_an_error_is_named_without_its_message() -> None:
    try:
        int("Canary")
    except ValueError as error:
        assert raised_at(error).startswith("test_processes.py:")
        assert raised_at(error).endswith("test_place_of_an_error_is_named_without_its_message")
    assert raised_at(ValueError("never raised")) == "unknown"


def test_engines_of_one_device_share_a_process_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = ("cuda", "auto", "cuda:0", "cpu", "cuda:1")
    file = tmp_path / "config.toml"
    engine = '[[engine]]\nname = "{0}"\nkind = "chest_xray"\nmodel = "demo"\ndevice = "{0}"\n'
    file.write_text("".join(engine.format(device) for device in devices))
    configuration = load(file)
    monkeypatch.setattr("node.processes.serving.FIRST_GPU_DEVICE", tmp_path)
    assert worker_groups(configuration) == [("cuda", "auto", "cuda:0"), ("cpu",), ("cuda:1",)]
    monkeypatch.setattr("node.processes.serving.FIRST_GPU_DEVICE", tmp_path / "absent")
    assert worker_groups(configuration) == [("cuda", "cuda:0"), ("auto", "cpu"), ("cuda:1",)]


def test_process_that_runs_alone_holds_leases_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    configuration = load(tmp_path / "config.toml")
    assert process_name(configuration, "worker", 0).endswith("worker-0")
    assert process_name(configuration, "worker", None).endswith(f"worker-pid{os.getpid()}")
