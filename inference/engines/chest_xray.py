"""Chest radiographs: the findings of a classification network on frontal views.

Preprocessing and networks are those of torchxrayvision: the same weights and the same file give the same
probabilities.

References: Cohen et al., "TorchXRayVision: A library of chest X-ray datasets and models", MIDL 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from inference.checking.expectations import CHEST_RADIOGRAPH
from inference.engines.image import ImageEngine
from inference.headers import ImageHeader
from inference.images.radiography import HEADER_KEYWORDS, View, refusal_of, view_of

if TYPE_CHECKING:
    from inference.store.expects import Expectations

VIEW_UNKNOWN = "the header does not say that this is a frontal view"


class ChestXrayEngine(ImageEngine):
    """Frontal radiographs of the chest."""

    kind: ClassVar[str] = "chest_xray"
    header_keywords: ClassVar[frozenset[str]] = HEADER_KEYWORDS
    minimum_size: ClassVar[int] = 224
    expects: ClassVar[Expectations | None] = CHEST_RADIOGRAPH

    @classmethod
    def refusal(cls, header: ImageHeader) -> str | None:
        """Why an image is not a frontal radiograph of sufficient size; None if it is or may be one."""
        return refusal_of(header, cls.minimum_size)

    def review_of(self, header: ImageHeader) -> str | None:
        """Advise a review if the header does not name the view."""
        return VIEW_UNKNOWN if view_of(header) is View.UNKNOWN else None
