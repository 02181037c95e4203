"""Regions that a person has drawn in a Presentation State or a Structured Report."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from inference.errors import ImageUnreadable
from inference.parsing.regions import drawn_region


def written(path: Path, dataset: Dataset) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.11.1"
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_polyline_of_a_presentation_state(tmp_path: Path) -> None:
    drawn, annotation, state = Dataset(), Dataset(), Dataset()
    drawn.GraphicAnnotationUnits, drawn.GraphicDimensions, drawn.GraphicType = "PIXEL", 2, "POLYLINE"
    drawn.NumberOfGraphicPoints = 3
    drawn.GraphicData = [101.0, 51.0, 301.0, 51.0, 301.0, 151.0]
    annotation.GraphicObjectSequence = [drawn]
    state.GraphicAnnotationSequence = [annotation]
    assert drawn_region(written(tmp_path / "state.dcm", state)) == (100, 50, 200, 100)


def test_coordinates_deep_in_a_report(tmp_path: Path) -> None:
    drawn, group, report = Dataset(), Dataset(), Dataset()
    drawn.ValueType, drawn.GraphicType, drawn.GraphicData = "SCOORD", "POLYLINE", [10.5, 20.0, 30.0, 60.0]
    group.ValueType, group.ContentSequence = "CONTAINER", [drawn]
    report.ValueType, report.ContentSequence = "CONTAINER", [group]
    assert drawn_region(written(tmp_path / "report.dcm", report)) == (10, 20, 20, 40)


def test_object_without_a_region_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable, match="no region"):
        drawn_region(written(tmp_path / "empty.dcm", Dataset()))
