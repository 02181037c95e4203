"""What a header says of how stored values become grey values: rescale, lookup tables, padding, VOI.

Plain numbers and arrays, so that they can leave the process that parsed the header.

References
----------
DICOM PS3.3 sections C.7.5.1.1.2 (padding), C.11.1 (Modality LUT) and C.11.2 (VOI LUT).
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
"""Modality values beyond this overflow in the arithmetic that follows, and no modality makes them."""


@dataclass(frozen=True, kw_only=True)
class Rescale:
    """Modality value = slope x stored value + intercept."""

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window of PS3.3 section C.11.2.1.2 (LINEAR), C.11.2.1.3 (SIGMOID, LINEAR_EXACT)."""

    centre: float
    width: float
    function: str

    def unit(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Modality values as brightness in [0, 1]."""
        if self.function == "SIGMOID":
            exponent = np.clip(-4.0 * (values - np.float32(self.centre)) / np.float32(self.width), -60, 60)
            return np.float32(1) / (np.float32(1) + np.exp(exponent, dtype=np.float32))
        exact = self.function == "LINEAR_EXACT"
        centre, width = (self.centre, self.width) if exact else (self.centre - 0.5, max(self.width - 1, 1e-6))
        shown = (values - np.float32(centre)) / np.float32(width) + np.float32(0.5)
        return np.clip(shown, 0, 1, out=shown)


@dataclass(frozen=True, kw_only=True)
class LookupTable:
    """A lookup table of PS3.3 section C.11.1.1: ``entries`` up to ``highest`` for input values from ``first`` on."""

    first: int
    highest: int
    entries: NDArray[np.uint16] = field(repr=False)

    def unit(self, values: NDArray[np.integer] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Look values up; gives float32 in [0, 1]. Values beyond the ends take the first or last entry."""
        index = np.rint(values).astype(np.int64) - self.first
        entries = self.entries.astype(np.float32) / np.float32(self.highest)
        return entries[np.clip(index, 0, len(entries) - 1)]


@dataclass(frozen=True, kw_only=True)
class Display:
    """How stored values are to be shown; ``padding`` is the lowest and highest stored value that is no picture.

    ``inverted`` says that low values are bright (MONOCHROME1). ``voi`` applies to modality values.
    """

    inverted: bool = False
    modality: Rescale | LookupTable = Rescale()
    padding: tuple[int, int] | None = None
    voi: Window | LookupTable | None = None

    @classmethod
    def of(cls, dataset: Dataset, lowest: int, highest: int) -> Display:
        """The display of a header whose stored values lie in [``lowest``, ``highest``].

        Raises
        ------
        ImageUnreadable
            If its rescale or a lookup table cannot be applied.
        """
        modality = _modality(dataset, signed=lowest < 0)
        ends = modality_range(modality, lowest, highest)
        if max(map(abs, ends)) > LARGEST_VALUE:
            raise ImageUnreadable("Rescale Slope and Rescale Intercept make values beyond all measure")
        return cls(
            inverted=dataset.PhotometricInterpretation == "MONOCHROME1",
            modality=modality,
            padding=_padding(dataset),
            voi=_voi(dataset, signed=ends[0] < 0),
        )


def modality_range(modality: Rescale | LookupTable, lowest: int, highest: int) -> tuple[float, float]:
    """Modality values at the ends of the stored range, or of the lookup table."""
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
        raise ImageUnreadable("Rescale Slope and Rescale Intercept are no finite, non-zero scale")
    return Rescale(slope=slope, intercept=intercept)


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    first = dataset.get("PixelPaddingValue")
    if first in (None, ""):
        return None
    last = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(first), int(first if last in (None, "") else last)))
    return low, high


def _voi(dataset: Dataset, *, signed: bool) -> Window | LookupTable | None:
    """The first VOI LUT or window; a window that cannot be applied counts as none."""
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
    return LookupTable(first=first, highest=highest, entries=entries[:count].astype(np.uint16))


def _first_item(dataset: Dataset, keyword: str) -> Dataset | None:
    sequence = dataset.get(keyword)
    return sequence[0] if sequence else None


def _first_number(dataset: Dataset, keyword: str) -> float | None:
    value = dataset.get(keyword)
    if value in (None, ""):
        return None
    return float(value) if isinstance(value, (int, float, str)) else float(value[0])
