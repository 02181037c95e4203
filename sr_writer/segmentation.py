"""The Segmentation object: label maps on the frames of the source, with a binary segment for each structure.

References: PS3.3 section A.51 (Segmentation IOD), C.8.20 (Segmentation modules).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pydicom
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from highdicom.seg import Segmentation as SegmentationObject
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from inference.findings import Analysis, Segmentation, SourceImage, Structure
from sr_writer.codes import PRIVATE_SCHEME, private_code, private_scheme_identification, verified
from sr_writer.context import ReportContext
from sr_writer.elements import set_items
from sr_writer.equipment import Algorithm
from sr_writer.instance import complete_instance
from sr_writer.source import IDENTITY_TYPE_2, SourceHeader
from sr_writer.strings import LONG_STRING, plain
from sr_writer.uids import derived_uid

_ALGORITHM_FAMILY = codes.DCM.ArtificialIntelligence
_SIDES: dict[str, Code] = {"left": codes.SCT.Left, "right": codes.SCT.Right}


def write_segmentation(
    analysis: Analysis,
    segmentation: Segmentation,
    source: SourceHeader,
    context: ReportContext,
    *,
    index: int,
    number: int,
) -> Dataset:
    """The Segmentation object of an analysis.

    Args:
        analysis: the analysis.
        segmentation: its label maps.
        source: header of its image.
        context: the job.
        index: index of the analysis in the job.
        number: counts the job's segmentations from 1.
    """
    algorithm = Algorithm.of_model(analysis.model)
    images, labels = _source_images(segmentation)
    structures = segmentation.structures
    written: Dataset = SegmentationObject(
        source_images=images,
        pixel_array=_renumbered(labels, structures),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _segment_description(
                position,
                structure,
                algorithm,
                tracking_identifiers(context, index, structure.value, structure.name),
            )
            for position, structure in enumerate(structures, start=1)
        ],
        series_instance_uid=derived_uid(context.job_seed, "segmentation series"),
        series_number=context.series_number + 2,
        sop_instance_uid=derived_uid(context.job_seed, "segmentation", number),
        instance_number=number,
        manufacturer=plain(context.manufacturer, LONG_STRING),
        manufacturer_model_name=plain(context.model_name, LONG_STRING),
        software_versions=plain(context.software_version, LONG_STRING),
        device_serial_number=plain(context.device_serial_number or "1", LONG_STRING),
        content_label="SEGMENTATION",
    )
    written["PixelData"].VR = "OB"
    # highdicom takes a random UID, but a rerun has to make the same object.
    organization = derived_uid(context.job_seed, "segmentation dimensions", number)
    for item in (*written.DimensionOrganizationSequence, *written.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    if any(type_code(s).scheme_designator == PRIVATE_SCHEME for s in structures):
        set_items(written, "CodingSchemeIdentificationSequence", [private_scheme_identification()])
    for keyword in ("PatientIdentityRemoved", "DeidentificationMethod"):
        if keyword in written:
            delattr(written, keyword)
    complete_instance(written, source, context, analysis.model, title="segmentation")
    return written


def _source_images(
    segmentation: Segmentation,
) -> tuple[list[Dataset], NDArray[np.unsignedinteger]]:
    """Headers of the source images, and the label maps of all their frames, shape (frames, rows, columns)."""
    by_instance: dict[str, list[tuple[SourceImage, NDArray[np.unsignedinteger]]]] = {}
    for image, label_map in zip(segmentation.images, segmentation.labels, strict=True):
        by_instance.setdefault(image.sop_instance_uid, []).append((image, label_map))
    headers: list[Dataset] = []
    maps: list[NDArray[np.unsignedinteger]] = []
    for frames in by_instance.values():
        header = pydicom.dcmread(frames[0][0].path, stop_before_pixels=True, force=True)
        for keyword in IDENTITY_TYPE_2:
            # highdicom would quote unusual names in warnings. The values are set from the source afterwards.
            setattr(header, keyword, None)
        headers.append(header)
        if frames[0][0].frame is None:
            maps.append(frames[0][1][None])
            continue
        whole = np.zeros((int(header.NumberOfFrames), *frames[0][1].shape), dtype=segmentation.labels.dtype)
        for image, label_map in frames:
            whole[(image.frame or 1) - 1] = label_map
        maps.append(whole)
    return headers, np.concatenate(maps)


def _renumbered(
    labels: NDArray[np.unsignedinteger], structures: Sequence[Structure]
) -> NDArray[np.unsignedinteger]:
    """Label maps whose values are segment numbers, from 1 in the order of the structures."""
    table = np.zeros(int(labels.max()) + 1, dtype=np.uint16 if len(structures) > 255 else np.uint8)
    for number, structure in enumerate(structures, start=1):
        table[structure.value] = number
    return table[labels]


def segment_number(segmentation: Segmentation, value: int) -> int:
    """Segment Number (0062,0004) of the structure with this value in the label maps."""
    return 1 + [structure.value for structure in segmentation.structures].index(value)


def tracking_identifiers(context: ReportContext, index: int, number: int, name: str) -> tuple[str, str]:
    """Tracking Unique Identifier and Tracking Identifier of a lesion or structure.

    The report and the segmentation use the same ones, so that a reader can match their entries.

    Args:
        context: the job.
        index: index of the analysis in the job.
        number: number of the lesion, or the structure's value in the label maps.
        name: name of the lesion or structure.
    """
    text = plain(f"{context.engine_name} {name}", LONG_STRING)
    return derived_uid(context.job_seed, "tracking in volume", index, number), text


def _segment_description(
    number: int, structure: Structure, algorithm: Algorithm, tracking: tuple[str, str]
) -> SegmentDescription:
    category = verified(structure.category) or codes.SCT.AnatomicalStructure
    tracking_uid, tracking_id = tracking
    description = SegmentDescription(
        segment_number=number,
        segment_label=plain(structure.name, LONG_STRING),
        segmented_property_category=category,
        segmented_property_type=type_code(structure),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=algorithm.name, version=algorithm.version, family=_ALGORITHM_FAMILY
        ),
        tracking_uid=tracking_uid,
        tracking_id=tracking_id,
    )
    if (side := laterality(structure)) is not None:
        (type_item,) = description.SegmentedPropertyTypeCodeSequence
        type_item.SegmentedPropertyTypeModifierCodeSequence = [CodedConcept.from_code(side)]
    return description


def type_code(structure: Structure) -> Code:
    """Code of a structure: its own if that is verified, else one of the private scheme."""
    return verified(structure.type) or private_code(structure.name)


def laterality(structure: Structure) -> Code | None:
    """The side in a structure's name (PS3.16 CID 244), None if its verified code already contains it."""
    code = verified(structure.type)
    words = set(re.split(r"[^a-z]+", structure.name.lower()))
    sides = [side for word, side in _SIDES.items() if word in words]
    if code is None or len(sides) != 1 or sides[0].meaning.lower() in code.meaning.lower().split():
        return None
    return sides[0]
