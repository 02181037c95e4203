"""What every process of the node shares."""

from __future__ import annotations

import subprocess
import sys

ODD_VALUE = """
from node.processes import configure_log
configure_log()
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
