"""Single grey images of any modality, with any of torchvision's classification networks that a card describes."""

from __future__ import annotations

from typing import ClassVar

from inference.engines.image import ImageEngine
from inference.headers import ImageHeader

HEADER_KEYWORDS = frozenset(
    {
        "Modality",
        "Rows",
        "Columns",
        "NumberOfFrames",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "ImageType",
    }
)


class ImageClassifierEngine(ImageEngine):
    """Single-frame grey images; the model card and the routing rules choose the modalities."""

    kind: ClassVar[str] = "image_classifier"
    header_keywords: ClassVar[frozenset[str]] = HEADER_KEYWORDS

    @classmethod
    def refusal(cls, header: ImageHeader) -> str | None:
        """Why an image is not a single grey frame of sufficient size; None if it is."""
        rows, columns = header.number("Rows"), header.number("Columns")
        if rows is None or columns is None:
            return "The object has no pixels."
        if min(rows, columns) < cls.minimum_size:
            return f"The image has {columns} x {rows} pixels; at least {cls.minimum_size} are needed."
        if (header.number("NumberOfFrames") or 1) > 1:
            return f"The image has {header.number('NumberOfFrames')} frames; a single one is analysed."
        photometric = header.text("PhotometricInterpretation")
        if (header.number("SamplesPerPixel") or 1) > 1 or not photometric.startswith("MONOCHROME"):
            return f"The image is in colour ({photometric or 'not said'}); grey images are analysed."
        return None

    def review_of(self, header: ImageHeader) -> str | None:
        """Advise a review if the model was made for other modalities."""
        modality = header.text("Modality")
        modalities = self.card.modalities
        if modalities and modality not in modalities:
            return (
                f"the model was made for {', '.join(modalities)}, not for {modality or 'an unknown modality'}"
            )
        return None
