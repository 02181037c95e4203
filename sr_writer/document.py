"""The Comprehensive 3D SR document around a content tree.

References: PS3.3 sections A.35.13 (Comprehensive 3D SR IOD), C.17.1 (SR Document Series), C.17.2 (SR
Document General), table C.17-3b (Hierarchical SOP Instance Reference macro).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from sr_writer.codes import private_scheme_identification
from sr_writer.content import referenced_instance, template_item
from sr_writer.elements import code_item, item, sequence, set_items, text_element

_TITLE = codes.DCM.ImagingMeasurementReport


@dataclass(frozen=True, kw_only=True)
class InstanceReference:
    """An instance that a document refers to, with its study and series."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def new_document(
    content: Iterable[bytes],
    *,
    series_instance_uid: str,
    sop_instance_uid: str,
    series_number: int,
    evidence: Iterable[InstanceReference],
    predecessors: Iterable[InstanceReference],
    requests: Sequence[Dataset],
) -> Dataset:
    """A complete but unverified document; patient, study, dates and equipment are still to be set.

    Args:
        content: the content items below the root of TID 1500, encoded.
        series_instance_uid: UID of the document's series.
        sop_instance_uid: UID of the document.
        series_number: number of the document's series.
        evidence: every instance that the content refers to.
        predecessors: documents that this one replaces.
        requests: items of Referenced Request Sequence.
    """
    document = Dataset()
    document.SOPClassUID = Comprehensive3DSRStorage
    document.SOPInstanceUID = sop_instance_uid
    document.SeriesInstanceUID = series_instance_uid
    document.SeriesNumber = series_number
    document.InstanceNumber = 1
    document.Modality = "SR"
    set_items(document, "ReferencedPerformedProcedureStepSequence", [])
    set_items(document, "PerformedProcedureCodeSequence", [])
    # No person has read the content or is responsible for it.
    document.CompletionFlag = "COMPLETE"
    document.VerificationFlag = "UNVERIFIED"
    document.PreliminaryFlag = "PRELIMINARY"
    set_items(document, "CurrentRequestedProcedureEvidenceSequence", hierarchical_references(evidence))
    predecessor_items = hierarchical_references(predecessors)
    if predecessor_items:
        set_items(document, "PredecessorDocumentsSequence", predecessor_items)
    if requests:
        document.ReferencedRequestSequence = list(requests)
    set_items(document, "CodingSchemeIdentificationSequence", [private_scheme_identification()])
    document.ValueType = "CONTAINER"
    set_items(document, "ConceptNameCodeSequence", [code_item(_TITLE)])
    document.ContinuityOfContent = "CONTINUOUS"
    set_items(document, "ContentTemplateSequence", [template_item("1500")])
    set_items(document, "ContentSequence", content)
    return document


def hierarchical_references(references: Iterable[InstanceReference]) -> list[bytes]:
    """Encoded items that list instances by study and series, each instance once."""
    studies: dict[str, dict[str, dict[str, bytes]]] = {}
    for reference in references:
        series = studies.setdefault(reference.study_instance_uid, {})
        series.setdefault(reference.series_instance_uid, {})[reference.sop_instance_uid] = (
            referenced_instance(reference.sop_class_uid, reference.sop_instance_uid)
        )
    return [_study_item(study_uid, series) for study_uid, series in studies.items()]


def _study_item(study_uid: str, series: dict[str, dict[str, bytes]]) -> bytes:
    return item(
        sequence(
            "ReferencedSeriesSequence",
            [
                item(
                    sequence("ReferencedSOPSequence", instances.values()),
                    text_element("SeriesInstanceUID", series_uid),
                )
                for series_uid, instances in series.items()
            ],
        ),
        text_element("StudyInstanceUID", study_uid),
    )
