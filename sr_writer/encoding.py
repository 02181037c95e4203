"""A finished object as the bytes of its file.

References: PS3.10 section 7 (DICOM file format).
"""

from __future__ import annotations

from io import BytesIO

from sr_writer.context import WrittenObject
from sr_writer.elements import element_header

_PIXEL_DATA = 0x7FE00010


def encode(written: WrittenObject) -> bytes:
    """The file of a finished object: the bytes that pydicom's ``save_as`` writes.

    Pixel data are the last data element of our objects. pydicom would copy them four times; here it encodes the rest,
    and uncompressed ones are joined to that.
    """
    dataset = written.dataset
    buffer = BytesIO()
    if _PIXEL_DATA not in dataset or dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()
    pixels = dataset[_PIXEL_DATA]
    rest = dataset[:_PIXEL_DATA]
    rest.file_meta = dataset.file_meta
    rest.save_as(buffer, enforce_file_format=True)
    header = element_header("PixelData", len(pixels.value), pixels.VR)
    return b"".join((buffer.getvalue(), header, pixels.value))
