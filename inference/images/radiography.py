"""Whether a plain radiograph shows a chest, and in which view, according to its header.

References: DICOM PS3.3 sections C.8.7.1 (View Position of computed radiography), C.8.11.5 (DX positioning) and
C.7.6.1.1.1 (Patient Orientation).
"""

from __future__ import annotations

import re
from enum import StrEnum

from inference.headers import ImageHeader

HEADER_KEYWORDS = frozenset(
    {
        "BodyPartExamined",
        "ImageType",
        "Columns",
        "Modality",
        "NumberOfFrames",
        "PatientOrientation",
        "PhotometricInterpretation",
        "PresentationIntentType",
        "ProtocolName",
        "Rows",
        "SamplesPerPixel",
        "SeriesDescription",
        "StudyDescription",
        "ViewPosition",
    }
)

RADIOGRAPHY = ("CR", "DX", "DR", "RG")
"""Modalities of plain radiographs. DR is not in the standard, but some devices send it."""

_CHEST = re.compile(r"CHEST|THORAX|T[OÓ]RAX|\bLUNGE?|PULMO|POUMON|\bRIBS?\b|\bCXR\b", re.IGNORECASE)
_FRONTAL_POSITION = re.compile(r"(PA|AP)\b|.*\b(FRONTAL|ERECT|SUPINE)\b")
_OTHER_POSITION = re.compile(
    r"(LL|RL|LLD|RLD|LLO|RLO|LAO|RAO|LPO|RPO|LAT|LATERAL)\b|.*\b(LAT|LATERAL|OBLIQUE)\b"
)
_FRONTAL_WORDS = re.compile(r"\b(PA|AP|FRONTAL|P\.A\.|A\.P\.)(?!\w)", re.IGNORECASE)
_OTHER_WORDS = re.compile(
    r"\b(LAT|LATERAL|LATERALE|LL|RL|SEITLICH|SEITE|PROFIL|PERFIL|OBLIQUES?|OBL|DECUB\w*|LAO|RAO|LPO|RPO)\b",
    re.IGNORECASE,
)


class View(StrEnum):
    """The view of a radiograph, as far as its header says."""

    FRONTAL = "frontal"
    OTHER = "other"
    UNKNOWN = "unknown"


def refusal_of(header: ImageHeader, minimum_size: int) -> str | None:
    """Why an image is no frontal chest radiograph, as a sentence for an administrator; None if it is one.

    An image whose view is unknown is accepted.

    Args:
        header: the image's header, with ``HEADER_KEYWORDS``.
        minimum_size: fewest rows, and fewest columns, in pixels.
    """
    return _kind_refusal(header, minimum_size) or _chest_refusal(header) or _view_refusal(header)


def view_of(header: ImageHeader) -> View:
    """The view, from View Position, else Patient Orientation, else the series' descriptions."""
    position = header.text("ViewPosition")
    if _OTHER_POSITION.match(position):
        return View.OTHER
    if _FRONTAL_POSITION.match(position):
        return View.FRONTAL
    rows_run_to = header.text("PatientOrientation")[:1]
    if rows_run_to in ("A", "P"):
        return View.OTHER
    words = _descriptions(header, "SeriesDescription", "ProtocolName")
    frontal, other = _FRONTAL_WORDS.search(words), _OTHER_WORDS.search(words)
    if other and not frontal:
        return View.OTHER
    if rows_run_to in ("L", "R") or (frontal and not other):
        return View.FRONTAL
    return View.UNKNOWN


def _kind_refusal(header: ImageHeader, minimum_size: int) -> str | None:
    modality = header.text("Modality")
    if modality not in RADIOGRAPHY:
        return f"Modality {modality or 'is empty and'} is no plain radiography ({', '.join(RADIOGRAPHY)})."
    if (header.number("NumberOfFrames") or 1) > 1:
        return f"The image has {header.number('NumberOfFrames')} frames; a single one is analysed."
    photometric = header.text("PhotometricInterpretation")
    if (header.number("SamplesPerPixel") or 1) > 1 or (
        photometric and not photometric.startswith("MONOCHROME")
    ):
        coding = photometric or "several samples per pixel"
        return f"The image is in colour ({coding}); grey images are analysed."
    if header.text("PresentationIntentType") == "FOR PROCESSING":
        return "The image is raw data for processing, not for presentation."
    if {"LOCALIZER", "SCOUT"} & {value.upper() for value in header.values("ImageType")}:
        return "The image is a localizer."
    rows, columns = header.number("Rows"), header.number("Columns")
    if rows is None or columns is None:
        return "The object has no pixels."
    if min(rows, columns) < minimum_size:
        return (
            f"The image has {columns} x {rows} pixels; at least {minimum_size} x {minimum_size} are needed."
        )
    return None


def _chest_refusal(header: ImageHeader) -> str | None:
    body_part = header.text("BodyPartExamined")
    if body_part:
        return None if _CHEST.search(body_part) else f"Body Part Examined is {body_part}, not the chest."
    words = _descriptions(header, "StudyDescription", "SeriesDescription", "ProtocolName")
    if _CHEST.search(words):
        return None
    return "Body Part Examined is empty, and no description says that this is a chest."


def _view_refusal(header: ImageHeader) -> str | None:
    if view_of(header) is not View.OTHER:
        return None
    position = header.text("ViewPosition")
    evidence = (
        f"View Position {position}" if _OTHER_POSITION.match(position) else "orientation or description"
    )
    return f"The image is no frontal view ({evidence}); frontal views are analysed."


def _descriptions(header: ImageHeader, *keywords: str) -> str:
    """Descriptions as one text, in which spaces replace underscores."""
    return " ".join(value for keyword in keywords for value in header.values(keyword)).replace("_", " ")
