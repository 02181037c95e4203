"""Content items of a report, as encoded items of Content Sequence (0040,A730).

Only what our reports use of PS3.3 section C.17.3 is here. A child's relationship to its parent is part of the child.

References: PS3.3 tables C.17-5 and C.17-6, sections C.17.3.2.4 (relationships), C.18 (value types).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import DS

from sr_writer.elements import code_sequence, element, item, sequence, text_element

_DERIVATION = codes.DCM.Derivation


class Relationship(StrEnum):
    """How a content item relates to its parent (PS3.3 section C.17.3.2.4)."""

    CONTAINS = "CONTAINS"
    HAS_CONCEPT_MOD = "HAS CONCEPT MOD"
    HAS_OBS_CONTEXT = "HAS OBS CONTEXT"
    SELECTED_FROM = "SELECTED FROM"


def container(relationship: Relationship, name: Code, children: Iterable[bytes], template: str = "") -> bytes:
    """A CONTAINER, if it begins a template with that template's number."""
    return item(
        *_head(relationship, "CONTAINER", name),
        text_element("ContinuityOfContent", "CONTINUOUS"),
        sequence("ContentTemplateSequence", [template_item(template)]) if template else b"",
        sequence("ContentSequence", children),
    )


def template_item(identifier: str) -> bytes:
    """The item of Content Template Sequence (0040,A504) for a template of PS3.16."""
    return item(
        text_element("MappingResource", "DCMR"),
        text_element("TemplateIdentifier", identifier),
    )


def code(relationship: Relationship, name: Code, value: Code, children: Iterable[bytes] = ()) -> bytes:
    """A CODE."""
    return item(
        *_head(relationship, "CODE", name), code_sequence("ConceptCodeSequence", value), *_below(children)
    )


def text(relationship: Relationship, name: Code, value: str) -> bytes:
    """A TEXT; the text is ASCII."""
    return item(*_head(relationship, "TEXT", name), text_element("TextValue", value))


def uid_reference(relationship: Relationship, name: Code, uid: str) -> bytes:
    """A UIDREF."""
    return item(*_head(relationship, "UIDREF", name), text_element("UID", uid))


def number(name: Code, value: float, unit: Code, derivation: Code | None = None) -> bytes:
    """A NUM that its parent contains; ``derivation`` says how the value was derived from several."""
    measured = item(
        code_sequence("MeasurementUnitsCodeSequence", unit),
        element("FloatingPointValue", struct.pack("<d", value)),
        text_element("NumericValue", str(DS(value, auto_format=True))),
    )
    modifiers = [] if derivation is None else [code(Relationship.HAS_CONCEPT_MOD, _DERIVATION, derivation)]
    return item(
        *_head(Relationship.CONTAINS, "NUM", name),
        sequence("MeasuredValueSequence", [measured]),
        *_below(modifiers),
    )


def image(
    relationship: Relationship,
    name: Code,
    sop_class_uid: str,
    sop_instance_uid: str,
    *,
    frame: int | None = None,
    segment: int | None = None,
) -> bytes:
    """An IMAGE: a whole instance, its frame or its segment; both are numbered from 1."""
    return item(
        sequence(
            "ReferencedSOPSequence",
            [referenced_instance(sop_class_uid, sop_instance_uid, frame=frame, segment=segment)],
        ),
        *_head(relationship, "IMAGE", name),
    )


def referenced_instance(
    sop_class_uid: str, sop_instance_uid: str, *, frame: int | None = None, segment: int | None = None
) -> bytes:
    """An item of Referenced SOP Sequence (0008,1199), for an instance, its frame or its segment."""
    return item(
        text_element("ReferencedSOPClassUID", sop_class_uid),
        text_element("ReferencedSOPInstanceUID", sop_instance_uid),
        b"" if frame is None else text_element("ReferencedFrameNumber", str(frame)),
        b"" if segment is None else element("ReferencedSegmentNumber", segment.to_bytes(2, "little")),
    )


def polyline(name: Code, points: NDArray[np.float32], source: bytes) -> bytes:
    """An SCOORD that its parent contains: a line through points of shape (n, 2), (column, row) in a source image.

    ``source`` is an IMAGE with the relationship SELECTED FROM.
    """
    return item(
        *_head(Relationship.CONTAINS, "SCOORD", name),
        *_below([source]),
        element("GraphicData", points.astype("<f4").tobytes()),
        text_element("GraphicType", "POLYLINE"),
    )


def ellipsoid(name: Code, ends: NDArray[np.float64], frame_of_reference_uid: str) -> bytes:
    """An SCOORD3D that its parent contains, by the ends of its axes in patient coordinates (mm), shape (6, 3)."""
    return item(
        *_head(Relationship.CONTAINS, "SCOORD3D", name),
        element("GraphicData", ends.astype("<f4").tobytes()),
        text_element("GraphicType", "ELLIPSOID"),
        text_element("ReferencedFrameOfReferenceUID", frame_of_reference_uid),
    )


def _head(relationship: Relationship, value_type: str, name: Code) -> tuple[bytes, bytes, bytes]:
    return (
        text_element("RelationshipType", relationship),
        text_element("ValueType", value_type),
        code_sequence("ConceptNameCodeSequence", name),
    )


def _below(children: Iterable[bytes]) -> list[bytes]:
    """The Content Sequence (0040,A730) of an item, none without children."""
    encoded = list(children)
    return [sequence("ContentSequence", encoded)] if encoded else []
