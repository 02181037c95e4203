"""A bounded reader of a dataset's top-level attributes, without building a dataset.

It is for bytes that nobody has vouched for: nested sequences are passed over without recursion, at most
64 levels deep; lengths are checked before use; a deflated dataset is inflated only as far as needed.

References: PS3.5 sections 7.1 (element structure), 7.5 (sequences), A.5 (deflated).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping
from functools import cache

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, tag_for_keyword

from handlers.dimse.uids import DEFLATED_LITTLE, EXPLICIT_BIG, IMPLICIT_LITTLE
from handlers.errors import ScanError

AttributeValue = str | list[str] | None

MAXIMUM_DEPTH = 64
MAXIMUM_VALUE_LENGTH = 4096
"""A longer value of a wanted attribute is not worth indexing."""
MAXIMUM_INFLATED = 16 * 1024 * 1024
UNDEFINED = 0xFFFFFFFF
LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
TEXT_VRS = frozenset({"SH", "LO", "ST", "LT", "PN", "UC", "UT"})
NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
PIXEL_GROUP = 0x7FE0
ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
CHARACTER_SET = 0x00080005

USUAL_KEYWORDS = frozenset(
    """
    SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID StudyDate SeriesDate AcquisitionDate ContentDate
    StudyTime AccessionNumber Modality PresentationIntentType Manufacturer InstitutionName
    ReferringPhysicianName StationName StudyDescription SeriesDescription ManufacturerModelName PatientName
    PatientID IssuerOfPatientID PatientBirthDate PatientSex PatientAge BodyPartExamined SliceThickness
    ProtocolName ViewPosition StudyInstanceUID SeriesInstanceUID StudyID SeriesNumber AcquisitionNumber
    InstanceNumber PatientOrientation ImageOrientationPatient Laterality FrameOfReferenceUID
    NumberOfStudyRelatedInstances SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows Columns
    BitsAllocated BitsStored LossyImageCompression EchoNumbers EchoTime RepetitionTime ContrastBolusAgent
    ScanningSequence ConvolutionKernel
    """.split()
)


@cache
def wanted_tags(extra: frozenset[str]) -> Mapping[int, str]:
    """The tags to read, with their keywords: the usual ones and those that rules ask for."""
    tags = {tag_for_keyword(keyword): keyword for keyword in USUAL_KEYWORDS | extra}
    return {tag: keyword for tag, keyword in sorted((t, k) for t, k in tags.items() if t is not None)}


def scan(
    data: bytes | memoryview, transfer_syntax_uid: str, extra: Iterable[str] = ()
) -> dict[str, AttributeValue]:
    """Read the wanted top-level attributes of an encoded dataset, up to its pixel data.

    Args:
        data: the dataset, or as much of its beginning as there is.
        transfer_syntax_uid: how it is encoded.
        extra: keywords besides the usual ones.

    Raises:
        ScanError: it is not a dataset of that transfer syntax, or nested too deeply.
    """
    if transfer_syntax_uid == DEFLATED_LITTLE:
        data = _inflate(data)
    reader = _Reader(memoryview(data), transfer_syntax_uid)
    wanted = wanted_tags(frozenset(extra))
    raw = reader.top_level(wanted, max(wanted))
    declared = raw.get(CHARACTER_SET)
    character_sets = _latin(declared[1]).split("\\") if declared else []
    return {wanted[tag]: _value(vr, value, character_sets, reader.endian) for tag, (vr, value) in raw.items()}


@cache
def _representation(tag: int) -> bytes:
    """The VR of a tag in the dictionary, for implicit VR."""
    return dictionary_VR(tag).split(" ")[0].encode()


def _inflate(data: bytes | memoryview) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MAXIMUM_INFLATED)
    except zlib.error:
        raise ScanError("the deflated dataset is damaged") from None


class _Reader:
    def __init__(self, data: memoryview, transfer_syntax_uid: str) -> None:
        self.data = data
        self.explicit = transfer_syntax_uid != IMPLICIT_LITTLE
        self.endian = ">" if transfer_syntax_uid == EXPLICIT_BIG else "<"
        self.tag_struct = struct.Struct(self.endian + "HH")
        self.short = struct.Struct(self.endian + "H")
        self.long = struct.Struct(self.endian + "I")

    def head(self, position: int) -> tuple[int, bytes, int, int]:
        """Tag, VR (empty where implicit), length and the value's position."""
        data = self.data
        if position + 8 > len(data):
            raise ScanError("the dataset ends in the middle of an element")
        group, element = self.tag_struct.unpack_from(data, position)
        tag = group << 16 | element
        if group == 0xFFFE or not self.explicit:
            return tag, b"", self.long.unpack_from(data, position + 4)[0], position + 8
        vr = bytes(data[position + 4 : position + 6])
        if vr in LONG_VRS:
            if position + 12 > len(data):
                raise ScanError("the dataset ends in the middle of an element")
            return tag, vr, self.long.unpack_from(data, position + 8)[0], position + 12
        if not (vr.isalpha() and vr.isupper()):
            raise ScanError(f"the element at byte {position} has no value representation")
        return tag, vr, self.short.unpack_from(data, position + 6)[0], position + 8

    def top_level(self, wanted: Mapping[int, str], last: int) -> dict[int, tuple[bytes, bytes]]:
        """The wanted elements up to ``last``, as VR and bytes."""
        found: dict[int, tuple[bytes, bytes]] = {}
        position, size, before = 0, len(self.data), 0
        while position < size:
            tag, vr, length, start = self.head(position)
            if tag > last or tag >> 16 >= PIXEL_GROUP:
                break
            if tag < 0x00080000 or tag < before:
                raise ScanError("the dataset's elements are not in order")
            before = tag
            if length == UNDEFINED:
                position = self.skip_undefined(start)
                continue
            position = start + length
            if position > size:
                raise ScanError("an element is longer than the dataset")
            if tag in wanted and length <= MAXIMUM_VALUE_LENGTH and vr != b"SQ":
                found[tag] = (vr or _representation(tag), bytes(self.data[start:position]))
        return found

    def skip_undefined(self, position: int) -> int:
        """The position behind a sequence of undefined length; its items may nest."""
        depth = 1
        while depth:
            tag, _, length, start = self.head(position)
            position = start
            if tag in (ITEM_END, SEQUENCE_END):
                depth -= 1
            elif length == UNDEFINED:
                depth += 1
                if depth > MAXIMUM_DEPTH * 2:
                    raise ScanError(f"its sequences are nested more than {MAXIMUM_DEPTH} levels deep")
            else:
                position = start + length
                if position > len(self.data):
                    raise ScanError("an element is longer than the dataset")
        return position


def _latin(value: bytes) -> str:
    return value.decode("latin-1").strip(" \0")


def _value(vr: bytes, value: bytes, character_sets: list[str], endian: str) -> AttributeValue:
    name = vr.decode("ascii")
    if name in NUMBERS:
        code = NUMBERS[name]
        size = struct.calcsize(code)
        if len(value) % size:
            raise ScanError("a number has a wrong length")
        numbers = [str(n) for n in struct.unpack(f"{endian}{len(value) // size}{code}", value)]
        return None if not numbers else numbers[0] if len(numbers) == 1 else numbers
    if (name in TEXT_VRS and not value.isascii()) or b"\x1b" in value:
        text = _decode(value, character_sets)
    else:
        text = _latin(value)
    text = text.replace("\0", "").strip(" ")
    if not text:
        return None
    if "\\" in text and name not in ("ST", "LT", "UT", "UR"):
        return [part.strip(" ") for part in text.split("\\")]
    return text


def _decode(value: bytes, character_sets: list[str]) -> str:
    """Text of the declared character sets (PS3.5 section 6.1); undecodable bytes become question marks."""
    try:
        encodings = convert_encodings(character_sets or [""])
        return decode_bytes(value, encodings, {0x0A, 0x0C, 0x0D, 0x5C, 0x5E, 0x3D})
    except (LookupError, ValueError):
        return value.decode("ascii", "replace").replace("\ufffd", "?")
