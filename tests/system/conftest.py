"""What the system tests share: the real images, studies made for a test, and one node with one PACS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from inference.demo.phantoms import chest_phantom
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SIZE = 256


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real images."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real images are not on this machine")
    return REAL_DATA


@dataclass(frozen=True, kw_only=True)
class Site:
    """A node and the PACS that it delivers to."""

    node: Node
    pacs: Orthanc


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running node with the demonstration model and an Orthanc."""
    folder = tmp_path_factory.mktemp("site")
    with (
        Orthanc(folder / "pacs") as pacs,
        Node(folder / "node", [("pacs", "ORTHANC", pacs.port)]) as node,
    ):
        yield Site(node=node, pacs=pacs)


_PICTURES = [np.rint(chest_phantom(seed, SIZE).picture * 255).astype(np.uint8) for seed in range(3)]


def write_radiograph(path: Path, number: int, **attributes: object) -> Dataset:
    """A small frontal chest radiograph of a study of its own, unless attributes say otherwise."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.PatientName = f"Canary^Patient{number}"
    dataset.PatientID = f"CANARY-{number}"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.ReferringPhysicianName = ""
    dataset.StudyDate, dataset.StudyTime = "20260102", "030405"
    dataset.AccessionNumber = str(number)
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", 1, 1
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.Rows = dataset.Columns = SIZE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = _PICTURES[number % len(_PICTURES)].tobytes()
    dataset["PixelData"].VR = "OB"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return dataset
