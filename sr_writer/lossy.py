"""Lossy compression, which overlays must declare: that of the source, and their own.

References: PS3.3 section C.7.6.1.1.5 (Lossy Image Compression).
"""

from __future__ import annotations

from pydicom.dataset import Dataset

from sr_writer.encoded import encoded_text
from sr_writer.source import SourceHeader

_ALWAYS_LOSSY = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
}
_PERHAPS_LOSSY = {
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.93": "ISO_15444_2",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
"""Lossy Image Compression Method (0028,2114) of the transfer syntaxes that lose information."""


def copy_lossy_compression(source: SourceHeader, overlay: Dataset) -> None:
    """Declare on an overlay that its source was compressed with loss, if it was.

    A lossy transfer syntax counts even if the header says nothing. Ratio and method are copied from the source. If it
    has none, they follow from the transfer syntax and the size of the file.
    """
    declared = source.text("LossyImageCompression")
    method = _ALWAYS_LOSSY.get(source.transfer_syntax_uid, "")
    if not method and declared != "00":
        method = _PERHAPS_LOSSY.get(source.transfer_syntax_uid, "")
    if declared != "01" and not method:
        return
    overlay.LossyImageCompression = "01"
    methods = source.text("LossyImageCompressionMethod") or method
    if methods:
        overlay.LossyImageCompressionMethod = methods.split("\\")
    ratios = source.text("LossyImageCompressionRatio") or (_ratio(source) if method else "")
    if ratios:
        overlay.LossyImageCompressionRatio = ratios.split("\\")


def declare_lossy_compression(overlay: Dataset, method: str, ratio: float) -> None:
    """Declare on an overlay that its own pixels are compressed with loss, after what is declared of its source.

    Methods and ratios of several steps correspond, so those of the source are only kept where they do.

    Args:
        overlay: the overlay, with what it declares of its source.
        method: a Defined Term of Lossy Image Compression Method (0028,2114).
        ratio: bytes of the uncompressed pixels divided by bytes of the compressed ones.
    """
    methods = _values(overlay, "LossyImageCompressionMethod")
    ratios = _values(overlay, "LossyImageCompressionRatio")
    if len(methods) != len(ratios):
        methods, ratios = [], []
    overlay.LossyImageCompression = "01"
    overlay.LossyImageCompressionMethod = [*methods, method]
    overlay.LossyImageCompressionRatio = [*ratios, f"{ratio:.2f}"]


def _values(dataset: Dataset, keyword: str) -> list[str]:
    """The values of an attribute as text, none if it is absent."""
    text = encoded_text(dataset, keyword)
    return text.split("\\") if text else []


def _ratio(source: SourceHeader) -> str:
    """Bytes of the decoded pixels divided by bytes of the file, as a decimal string."""
    image = source.image
    samples = source.number("SamplesPerPixel", 1) * source.number("NumberOfFrames", 1)
    decoded = image.rows * image.columns * samples * source.number("BitsAllocated", 8) // 8
    return f"{max(decoded / max(source.file_size, 1), 1.0):.2f}"
