"""How a header maps stored values to grey values: rescale, lookup tables, padding and VOI.

All of it is plain numbers and arrays, which can leave the process that parsed the header.

References: DICOM PS3.3 sections C.7.5.1.1.2 (padding), C.11.1 (Modality LUT) and C.11.2 (VOI LUT).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from inference.errors import ImageUnreadable

LOOKUP_BITS = range(8, 17)
LARGEST_VALUE = 1e30
"""Largest modality value that is accepted: larger ones overflow later, and no modality produces them."""


@dataclass(frozen=True, kw_only=True)
class Rescale:
    """Modality value = slope x stored value + intercept."""

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window of PS3.3 section C.11.2.1.2 (LINEAR) or C.11.2.1.3 (SIGMOID, LINEAR_EXACT)."""

    centre: float
    width: float
    function: str

    def to_unit_range(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Modality values as grey values in [0, 1]."""
        if self.function == "SIGMOID":
            exponent = np.clip(-4.0 * (values - np.float32(self.centre)) / np.float32(self.width), -60, 60)
            return np.float32(1) / (np.float32(1) + np.exp(exponent, dtype=np.float32))
        exact = self.function == "LINEAR_EXACT"
        centre, width = (self.centre, self.width) if exact else (self.centre - 0.5, max(self.width - 1, 1e-6))
        shown = (values - np.float32(centre)) / np.float32(width) + np.float32(0.5)
        return np.clip(shown, 0, 1, out=shown)


@dataclass(frozen=True, kw_only=True)
class LookupTable:
    """A lookup table of PS3.3 section C.11.1.1.

    ``entries[0]`` is the output for the input value ``first``. Outputs lie in [0, ``highest``].
    """

    first: int
    highest: int
    entries: NDArray[np.uint16] = field(repr=False)

    def to_unit_range(self, values: NDArray[np.integer] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Look values up and scale the outputs to [0, 1].

        Values beyond the ends of the table take its first or last entry.
        """
        index = np.rint(values).astype(np.int64) - self.first
        entries = self.entries.astype(np.float32) / np.float32(self.highest)
        return entries[np.clip(index, 0, len(entries) - 1)]


@dataclass(frozen=True, kw_only=True)
class Display:
    """How stored values are displayed.

    ``inverted`` means that low values are bright (MONOCHROME1). ``padding`` is the range of stored values, both
    ends included, that are padding and not part of the picture. ``voi`` applies to modality values.
    """

    inverted: bool = False
    modality: Rescale | LookupTable = Rescale()
    padding: tuple[int, int] | None = None
    voi: Window | LookupTable | None = None

    @classmethod
    def of(cls, dataset: Dataset, lowest: int, highest: int) -> Display:
        """The display that a header describes, for stored values in [``lowest``, ``highest``].

        Raises:
            ImageUnreadable: the rescale or a lookup table cannot be applied.
        """
        modality = _modality(dataset, signed=lowest < 0)
        ends = modality_range(modality, lowest, highest)
        if max(map(abs, ends)) > LARGEST_VALUE:
            raise ImageUnreadable("Rescale Slope and Rescale Intercept make values that are too large")
        return cls(
            inverted=dataset.PhotometricInterpretation == "MONOCHROME1",
            modality=modality,
            padding=_padding(dataset),
            voi=_voi(dataset, signed=ends[0] < 0),
        )


def modality_range(modality: Rescale | LookupTable, lowest: int, highest: int) -> tuple[float, float]:
    """The lowest and highest modality value: at the ends of the stored range, or of the lookup table."""
    if isinstance(modality, LookupTable):
        return 0.0, float(modality.highest)
    ends = [modality.slope * value + modality.intercept for value in (lowest, highest)]
    return min(ends), max(ends)


def _modality(dataset: Dataset, *, signed: bool) -> Rescale | LookupTable:
    table = _first_item(dataset, "ModalityLUTSequence")
    if table is not None:
        return _table(table, signed=signed)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope in (None, "") or intercept in (None, ""):
        return Rescale()
    slope, intercept = float(slope), float(intercept)
    if not math.isfinite(slope) or not math.isfinite(intercept) or slope == 0:
        raise ImageUnreadable("Rescale Slope is 0, or Rescale Slope or Rescale Intercept is not finite")
    return Rescale(slope=slope, intercept=intercept)


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    first = dataset.get("PixelPaddingValue")
    if first in (None, ""):
        return None
    last = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(first), int(first if last in (None, "") else last)))
    return low, high


def _voi(dataset: Dataset, *, signed: bool) -> Window | LookupTable | None:
    """The first VOI LUT or window, None if there is none or the window is invalid."""
    table = _first_item(dataset, "VOILUTSequence")
    if table is not None:
        return _table(table, signed=signed)
    centre, width = _first_number(dataset, "WindowCenter"), _first_number(dataset, "WindowWidth")
    if centre is None or width is None or not math.isfinite(centre) or not math.isfinite(width):
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return Window(centre=centre, width=width, function=function)


def _table(item: Dataset, *, signed: bool) -> LookupTable:
    """The table of an item of a Modality or VOI LUT Sequence.

    ``signed`` says whether the first input value in LUT Descriptor is a signed number.
    """
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
        raise ImageUnreadable("a lookup table does not have the entries that its descriptor declares")
    return LookupTable(first=first, highest=highest, entries=entries[:count].astype(np.uint16))


def _first_item(dataset: Dataset, keyword: str) -> Dataset | None:
    sequence = dataset.get(keyword)
    return sequence[0] if sequence else None


def _first_number(dataset: Dataset, keyword: str) -> float | None:
    value = dataset.get(keyword)
    if value in (None, ""):
        return None
    return float(value) if isinstance(value, (int, float, str)) else float(value[0])
