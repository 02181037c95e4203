"""Identifiers of query/retrieve: reading those of requests and writing those of responses.

References: PS3.4 sections C.4.1.1.3 and C.6 (identifier structure and information models).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom.dsutils import encode

from handlers.dimse.uids import PATIENT_ROOT_FIND, PATIENT_ROOT_GET, PATIENT_ROOT_MOVE
from handlers.encoding.attributes import read_attributes
from handlers.encoding.uids import IMPLICIT_LITTLE
from handlers.errors import ScanError
from handlers.finding.information_model import KEYWORDS, LEVELS, Identifier

PATIENT_ROOT = frozenset({PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE, PATIENT_ROOT_GET})


class IdentifierError(Exception):
    """The identifier is unreadable or does not match its SOP class; the message goes into the Error Comment."""


def read_identifier(data: bytes, transfer_syntax: str, sop_class_uid: str) -> Identifier:
    """Read the identifier of a C-FIND, C-MOVE or C-GET request.

    Raises:
        IdentifierError: it cannot be read, or its level is not in the SOP class's information model.
    """
    try:
        keys = read_attributes(data, transfer_syntax, KEYWORDS)
    except ScanError as error:
        raise IdentifierError(str(error)) from error
    level = keys.get("QueryRetrieveLevel")
    levels = LEVELS if sop_class_uid in PATIENT_ROOT else LEVELS[1:]
    if not isinstance(level, str) or level not in levels:
        raise IdentifierError("Query/Retrieve Level is missing or not of this model")
    return Identifier(level=level, keys=keys)


def write_identifier(attributes: Mapping[str, str | Sequence[str]], transfer_syntax: str) -> bytes:
    """Encode attributes by keyword; if any text is not ASCII, all are UTF-8 and declared as such."""
    dataset = Dataset()
    ascii_only = all(
        text.isascii()
        for value in attributes.values()
        for text in ([value] if isinstance(value, str) else value)
    )
    if not ascii_only:
        dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in attributes.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        vr = dictionary_VR(tag)
        listed = [value] if isinstance(value, str) else list(value)
        converted = (
            [int(text) for text in listed if text] if vr == "US" else [text for text in listed if text]
        )
        content = converted[0] if len(converted) == 1 else converted or None
        dataset.add(DataElement(tag, vr, content, validation_mode=config.IGNORE))
    buffer = DicomBytesIO()
    buffer.is_little_endian = True
    buffer.is_implicit_VR = transfer_syntax == IMPLICIT_LITTLE
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def encode_dataset(dataset: Dataset, transfer_syntax: str) -> bytes:
    """Encode a dataset in a native little endian transfer syntax, without file meta information.

    Raises:
        ValueError: the dataset cannot be encoded.
    """
    encoded = encode(dataset, transfer_syntax == IMPLICIT_LITTLE, True)
    if encoded is None:
        raise ValueError("the dataset cannot be encoded")
    return encoded
