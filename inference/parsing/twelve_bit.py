"""Frames of 12-bit JPEG (Process 4), decoded by GDCM.

GDCM gives the same values as DCMTK to the last bit; no decoder that pydicom offers for them does. The node runs
this only in the reader process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.errors import ImageUnreadable

BITS = 12


def decode_frame(frame: bytes, rows: int, columns: int) -> NDArray[np.uint16]:
    """Sample values of one grey frame, shape (rows, columns).

    Raises:
        ImageUnreadable: GDCM cannot decode the frame.
    """
    import gdcm  # only where it is needed

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image: Any = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    )
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, BITS, BITS - 1, 0))
    # SWIG gives the bytes as text.
    cells = (image.GetBuffer() or "").encode("utf-8", "surrogateescape")
    if len(cells) != 2 * rows * columns:
        raise ImageUnreadable("12-bit JPEG pixel data cannot be decoded")
    return np.frombuffer(cells, dtype="<u2").reshape(rows, columns)
