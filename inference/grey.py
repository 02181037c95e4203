"""Stored values to grey values: padding, Modality LUT, VOI and the direction of brightness.

References
----------
DICOM PS3.3 sections C.7.5.1.1.2 (padding), C.11.1 (Modality LUT) and C.11.2 (VOI LUT).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from inference.errors import ImageUnreadable
from inference.pixels import StoredImage

LOOKUP_BITS = range(8, 17)


class Voi(Protocol):
    """A values-of-interest transformation of modality values to [0, 1]."""

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, kw_only=True)
class GreyImage:
    """A grey image on the scale of its own bit depth.

    ``values`` is float32 of shape (rows, columns) in [0, 1], growing with the modality value: 0 stands for
    ``lowest``, 1 for ``highest`` (modality values at the ends of the stored range, or of the lookup table).
    ``inverted`` says that low values are bright. ``voi`` is the first VOI transformation, if there is one.
    """

    values: NDArray[np.float32] = field(repr=False)
    lowest: float
    highest: float
    inverted: bool
    voi: Voi | None

    def full_scale(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values (all, a part or a resampling of ``self.values``) as brightness in [0, 1], without VOI."""
        return np.float32(1) - values if self.inverted else values

    def windowed(self, values: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Such values as brightness in [0, 1] through the VOI transformation; None where there is none."""
        if self.voi is None:
            return None
        span = np.float32(self.highest - self.lowest)
        shown = self.voi(values * span + np.float32(self.lowest))
        return np.float32(1) - shown if self.inverted else shown


def grey_image(image: StoredImage) -> GreyImage:
    """Apply padding and Modality LUT.

    A linear rescale moves the ends of the scale, not the values between them: an image whose Rescale Slope
    is positive has the grey values of its stored values.

    Raises
    ------
    ImageUnreadable
        If the Modality LUT or rescale of the header cannot be applied.
    """
    try:
        return _grey_image(image)
    except ImageUnreadable:
        raise
    except Exception as error:  # header values are converted when they are first used
        raise ImageUnreadable(f"the image's header is damaged ({type(error).__name__})") from error


def _grey_image(image: StoredImage) -> GreyImage:
    dataset = image.dataset
    table = _first_item(dataset, "ModalityLUTSequence")
    if table is not None:
        lookup = _LookupTable.of(table, signed=image.lowest < 0)
        values = lookup.unit(image.values)
        lowest, highest = 0.0, float(lookup.highest)
    else:
        slope, intercept = _rescale(dataset)
        span = np.float32(image.highest - image.lowest)
        values = (image.values.astype(np.float32) - np.float32(image.lowest)) / span
        lowest, highest = slope * image.lowest + intercept, slope * image.highest + intercept
        if slope < 0:
            values, lowest, highest = np.float32(1) - values, highest, lowest
    padding = _padding(image)
    if padding is not None:
        picture = values[~padding]
        values[padding] = picture.max() if image.inverted else picture.min()
    return GreyImage(
        values=values, lowest=lowest, highest=highest, inverted=image.inverted, voi=_voi(dataset, lowest < 0)
    )


def _rescale(dataset: Dataset) -> tuple[float, float]:
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope in (None, "") or intercept in (None, ""):
        return 1.0, 0.0
    slope, intercept = float(slope), float(intercept)
    if not math.isfinite(slope) or not math.isfinite(intercept) or slope == 0:
        raise ImageUnreadable("Rescale Slope and Rescale Intercept are no finite, non-zero scale")
    return slope, intercept


def _padding(image: StoredImage) -> NDArray[np.bool_] | None:
    """Which stored values are padding, None where none or all are."""
    first = image.dataset.get("PixelPaddingValue")
    if first in (None, ""):
        return None
    last = image.dataset.get("PixelPaddingRangeLimit")
    ends = sorted((int(first), int(first if last in (None, "") else last)))
    mask = (image.values >= ends[0]) & (image.values <= ends[1])
    return mask if mask.any() and not mask.all() else None


def _voi(dataset: Dataset, signed: bool) -> Voi | None:
    """The first VOI LUT or window; a window that cannot be applied counts as none."""
    table = _first_item(dataset, "VOILUTSequence")
    if table is not None:
        return _LookupTable.of(table, signed=signed).unit
    centre, width = _first_number(dataset, "WindowCenter"), _first_number(dataset, "WindowWidth")
    if centre is None or width is None or not math.isfinite(centre) or not math.isfinite(width):
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return _Window(centre=centre, width=width, function=function)


@dataclass(frozen=True, kw_only=True)
class _Window:
    """A window of PS3.3 section C.11.2.1.2 (LINEAR), C.11.2.1.3 (SIGMOID, LINEAR_EXACT)."""

    centre: float
    width: float
    function: str

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.function == "SIGMOID":
            exponent = np.clip(-4.0 * (values - np.float32(self.centre)) / np.float32(self.width), -60, 60)
            return np.float32(1) / (np.float32(1) + np.exp(exponent, dtype=np.float32))
        exact = self.function == "LINEAR_EXACT"
        centre, width = (self.centre, self.width) if exact else (self.centre - 0.5, max(self.width - 1, 1e-6))
        shown = (values - np.float32(centre)) / np.float32(width) + np.float32(0.5)
        return np.clip(shown, 0, 1, out=shown)


@dataclass(frozen=True, kw_only=True)
class _LookupTable:
    """A lookup table of PS3.3 section C.11.1.1: ``entries`` for input values from ``first`` on."""

    first: int
    highest: int
    entries: NDArray[np.float32]

    @classmethod
    def of(cls, item: Dataset, *, signed: bool) -> _LookupTable:
        """The table of a Modality or VOI LUT Sequence item; ``signed`` tells how its first input is coded."""
        count, first, bits = (int(number) for number in item.LUTDescriptor)
        count = count or 65536
        if signed and first >= 32768:
            first -= 65536
        if bits not in LOOKUP_BITS:
            raise ImageUnreadable(f"a lookup table with {bits} bits is not applied")
        data = item.LUTData
        if isinstance(data, bytes):
            entries = np.frombuffer(data, dtype="<u1" if len(data) < 2 * count else "<u2")
        else:
            entries = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
        highest = (1 << bits) - 1
        if len(entries) < count or entries[:count].max() > highest:
            raise ImageUnreadable("a lookup table does not have the entries that its descriptor says")
        return cls(
            first=first, highest=highest, entries=entries[:count].astype(np.float32) / np.float32(highest)
        )

    def unit(self, values: NDArray[np.integer] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Look values up; gives float32 in [0, 1]. Values beyond the ends take the first or last entry."""
        index = np.rint(values).astype(np.int64) - self.first
        return self.entries[np.clip(index, 0, len(self.entries) - 1)]


def _first_item(dataset: Dataset, keyword: str) -> Dataset | None:
    sequence = dataset.get(keyword)
    return sequence[0] if sequence else None


def _first_number(dataset: Dataset, keyword: str) -> float | None:
    value = dataset.get(keyword)
    if value in (None, ""):
        return None
    return float(value) if isinstance(value, (int, float, str)) else float(value[0])
