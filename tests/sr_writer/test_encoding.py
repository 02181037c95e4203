"""Content items and objects as bytes: what highdicom and pydicom would write."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Literal

import highdicom.sr as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence_item
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from inference.findings import Analysis
from sr_writer import ReportContext, encode, write_results
from sr_writer import content as ours
from sr_writer.content import Relationship
from sr_writer.elements import code_item, element, set_items

MakeAnalysis = Callable[..., Analysis]
MakeImage = Callable[..., Path]

CONTAINS = hd.RelationshipTypeValues.CONTAINS
CT, CR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1"
LONG = Code("16000511000119103", "SCT", "A code of seventeen digits")
POINTS = np.array([[0.5, 0.25], [10.0, 3.3], [4.0, 9.0], [0.5, 0.25]], np.float32)
ENDS = np.array([[1, 2, 3], [9, 2, 3], [5, -2, 3], [5, 6, 3], [5, 2, 0.1], [5, 2, 6]], np.float64)


def encoded(item: Dataset) -> bytes:
    """The item as pydicom writes it."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_sequence_item(buffer, item, ["iso8859"])
    return buffer.getvalue()


def with_child(parent: hd.ContentItem, child: hd.ContentItem) -> hd.ContentItem:
    parent.ContentSequence = hd.ContentSequence([child])
    return parent


def framed(image: hd.ImageContentItem, keyword: str, number: int) -> hd.ImageContentItem:
    setattr(image.ReferencedSOPSequence[0], keyword, number)
    return image


@pytest.mark.parametrize(
    ("item", "same"),
    [
        (
            ours.code(Relationship.CONTAINS, codes.DCM.Finding, LONG),
            hd.CodeContentItem(codes.DCM.Finding, LONG, CONTAINS),
        ),
        (
            ours.code(
                Relationship.HAS_CONCEPT_MOD,
                codes.SCT.FindingSite,
                codes.SCT.Lung,
                [ours.code(Relationship.HAS_CONCEPT_MOD, codes.SCT.Laterality, codes.SCT.Left)],
            ),
            hd.FindingSite(codes.SCT.Lung, codes.SCT.Left),
        ),
        (
            ours.text(Relationship.CONTAINS, codes.DCM.Comment, "odd"),
            hd.TextContentItem(codes.DCM.Comment, "odd", CONTAINS),
        ),
        (
            ours.uid_reference(Relationship.HAS_OBS_CONTEXT, codes.DCM.TrackingUniqueIdentifier, "1.2.3"),
            hd.UIDRefContentItem(
                codes.DCM.TrackingUniqueIdentifier, "1.2.3", hd.RelationshipTypeValues.HAS_OBS_CONTEXT
            ),
        ),
        *(
            (
                ours.number(codes.SCT.Volume, value, codes.UCUM.CubicMillimeter, codes.SCT.Mean),
                hd.Measurement(
                    codes.SCT.Volume, value, codes.UCUM.CubicMillimeter, derivation=codes.SCT.Mean
                )[0],
            )
            for value in (0.0, -1024.0, 12.3457, 1e-4, 123456789012.3457, 1234567.0001)
        ),
        (
            ours.image(Relationship.CONTAINS, codes.DCM.SourceOfMeasurement, CT, "1.2.4", frame=12),
            hd.SourceImageForMeasurementGroup(CT, "1.2.4", [12]),
        ),
        (
            ours.image(Relationship.CONTAINS, codes.DCM.SourceOfMeasurement, CT, "1.2.4", segment=300),
            framed(hd.SourceImageForMeasurementGroup(CT, "1.2.4"), "ReferencedSegmentNumber", 300),
        ),
        (
            ours.polyline(
                codes.DCM.ImageRegion,
                POINTS,
                ours.image(Relationship.SELECTED_FROM, Code("260753009", "SCT", "Source"), CR, "1.2.4"),
            ),
            hd.ImageRegion(hd.GraphicTypeValues.POLYLINE, POINTS, hd.SourceImageForRegion(CR, "1.2.4")),
        ),
        (
            ours.ellipsoid(codes.DCM.VolumeSurface, ENDS, "1.2.5"),
            hd.Scoord3DContentItem(
                codes.DCM.VolumeSurface,
                hd.GraphicTypeValues3D.ELLIPSOID,
                ENDS,
                "1.2.5",
                relationship_type=CONTAINS,
            ),
        ),
        (
            ours.container(
                Relationship.CONTAINS,
                codes.DCM.MeasurementGroup,
                [ours.text(Relationship.CONTAINS, codes.DCM.Comment, "even")],
                "1501",
            ),
            with_child(
                hd.ContainerContentItem(
                    codes.DCM.MeasurementGroup, template_id="1501", relationship_type=CONTAINS
                ),
                hd.TextContentItem(codes.DCM.Comment, "even", CONTAINS),
            ),
        ),
    ],
    ids=lambda value: value.ValueType if isinstance(value, Dataset) else "ours",
)
def test_content_item_has_the_bytes_of_highdicoms(item: bytes, same: Dataset) -> None:
    assert item == encoded(same)


def test_codes_that_differ_in_their_meaning_alone_keep_it() -> None:
    one, other = Code("NODULE", "99OVERREAD", "Nodule"), Code("NODULE", "99OVERREAD", "nodule")
    assert one == other
    assert (b"Nodule" in code_item(one), b"nodule" in code_item(other)) == (True, True)


def test_value_too_long_for_16_bits_of_length_is_unknown() -> None:
    values = np.zeros(20_000, "<f4").tobytes()
    assert element("GraphicData", values)[:12] == b"\x70\x00\x22\x00UN\x00\x00" + len(values).to_bytes(
        4, "little"
    )


def test_encoded_items_read_as_data_sets() -> None:
    dataset = Dataset()
    set_items(dataset, "ConceptNameCodeSequence", [code_item(codes.DCM.Finding)])
    assert isinstance(dataset.ConceptNameCodeSequence, Sequence)
    assert dataset.ConceptNameCodeSequence[0].CodeMeaning == "Finding"


@pytest.mark.parametrize("compression", ["none", "jpeg"])
def test_files_have_the_bytes_that_pydicom_writes(
    compression: Literal["none", "jpeg"],
    make_analysis: MakeAnalysis,
    make_image: MakeImage,
    context: ReportContext,
) -> None:
    written = write_results(
        [make_analysis(make_image())],
        replace(context, overlay_compression=compression),
    )
    assert {item.kind for item in written} == {"sr", "overlay"}
    for item in written:
        data = encode(item)
        buffer = BytesIO()
        item.dataset.save_as(buffer, enforce_file_format=True)
        assert data == buffer.getvalue()
        # Somebody has looked at everything, so pydicom encodes what had been encoded here.
        read = dcmread(BytesIO(data))
        assert str(read)
        again = BytesIO()
        read.save_as(again, enforce_file_format=True)
        assert data == again.getvalue()


def test_objects_can_go_to_another_process(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext
) -> None:
    for item in write_results([make_analysis(make_image())], context):
        assert encode(pickle.loads(pickle.dumps(item))) == encode(item)


def test_overlays_do_not_depend_on_those_drawn_before(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext
) -> None:
    def files(engine: str, probability: float) -> list[bytes]:
        analysis = make_analysis(make_image(), (0.1, probability, 0.6, 0.3))
        return [encode(item) for item in write_results([analysis], replace(context, engine_name=engine))]

    first = files("cxr", 0.9)
    assert files("another", 0.91) != first
    assert files("cxr", 0.9) == first
