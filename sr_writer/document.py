"""The Comprehensive 3D SR document around a content tree.

The document's modules are set here and not by highdicom's document class, which validates the patient's attributes,
takes the time from its own clock and copies the content tree three times.

References: PS3.3 sections A.35.13 (Comprehensive 3D SR IOD), C.17.1 (SR Document Series), C.17.2 (SR
Document General), table C.17-3b (Hierarchical SOP Instance Reference macro).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from sr_writer.codes import private_scheme_identification


@dataclass(frozen=True, kw_only=True)
class InstanceReference:
    """An instance that a document refers to, with its study and series."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def new_document(
    content: Dataset,
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
        content: the root content item.
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
    document.ReferencedPerformedProcedureStepSequence = []
    document.PerformedProcedureCodeSequence = []
    # No person has read the content or is responsible for it.
    document.CompletionFlag = "COMPLETE"
    document.VerificationFlag = "UNVERIFIED"
    document.PreliminaryFlag = "PRELIMINARY"
    document.CurrentRequestedProcedureEvidenceSequence = hierarchical_references(evidence)
    predecessor_items = hierarchical_references(predecessors)
    if predecessor_items:
        document.PredecessorDocumentsSequence = predecessor_items
    if requests:
        document.ReferencedRequestSequence = list(requests)
    document.CodingSchemeIdentificationSequence = [private_scheme_identification()]
    for element in content:
        document.add(element)
    return document


def hierarchical_references(references: Iterable[InstanceReference]) -> list[Dataset]:
    """Items that list instances by study and series, each instance once."""
    studies: dict[str, dict[str, dict[str, Dataset]]] = {}
    for reference in references:
        instance = Dataset()
        instance.ReferencedSOPClassUID = reference.sop_class_uid
        instance.ReferencedSOPInstanceUID = reference.sop_instance_uid
        series = studies.setdefault(reference.study_instance_uid, {})
        series.setdefault(reference.series_instance_uid, {})[reference.sop_instance_uid] = instance
    return [_study_item(study_uid, series) for study_uid, series in studies.items()]


def _study_item(study_uid: str, series: dict[str, dict[str, Dataset]]) -> Dataset:
    study_item = Dataset()
    study_item.StudyInstanceUID = study_uid
    study_item.ReferencedSeriesSequence = []
    for series_uid, instances in series.items():
        series_item = Dataset()
        series_item.SeriesInstanceUID = series_uid
        series_item.ReferencedSOPSequence = list(instances.values())
        study_item.ReferencedSeriesSequence.append(series_item)
    return study_item
