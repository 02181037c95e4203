"""Chest phantoms: the same seed gives the same object, findings are visible, the object conforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.demo.phantoms import FINDINGS, chest_phantom, phantom_dicom
from tests.peers.programs import program
from tests.validators import dciodvfy_errors


def test_same_seed_gives_the_same_object() -> None:
    assert phantom_dicom(3).PixelData == phantom_dicom(3).PixelData
    assert phantom_dicom(3).SOPInstanceUID == phantom_dicom(3).SOPInstanceUID
    assert phantom_dicom(3).SOPInstanceUID != phantom_dicom(4).SOPInstanceUID


@pytest.mark.parametrize("finding", range(len(FINDINGS)))
def test_finding_changes_the_picture(finding: int) -> None:
    nothing = (False,) * len(FINDINGS)
    one = tuple(index == finding for index in range(len(FINDINGS)))
    without, having = chest_phantom(1, 256, nothing), chest_phantom(1, 256, one)
    assert having.present == one
    assert np.abs(without.picture - having.picture).max() > 0.1
    assert having.picture.min() >= 0
    assert having.picture.max() <= 1


@pytest.mark.peer
def test_object_conforms(tmp_path: Path) -> None:
    program("dciodvfy")
    phantom_dicom(5).save_as(tmp_path / "phantom.dcm", enforce_file_format=True)
    assert dciodvfy_errors(tmp_path / "phantom.dcm") == []
