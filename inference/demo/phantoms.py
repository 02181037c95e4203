"""Chest phantoms: drawn radiographs with known findings, for demonstrations, training and tests.

They only roughly look like frontal chest radiographs, and say nothing about real ones. Coordinates are fractions of
the picture: (0, 0) is the upper left corner, (1, 1) the lower right one.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

FINDINGS = ("Cardiomegaly", "Consolidation", "Effusion", "Nodule", "Pneumothorax")
"""The findings that a phantom may have, in the order of ``Phantom.present``."""

DICOM_SIZE = 1024
BITS_STORED = 12
PIXEL_SPACING_MM = 0.35

Values = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """A drawn radiograph and the findings that it shows.

    ``picture`` has the shape (size, size) and values in [0, 1], where dense is bright. ``present`` is in the order of
    ``FINDINGS``.
    """

    picture: Values = field(repr=False)
    present: tuple[bool, ...]


def chest_phantom(seed: int, size: int = DICOM_SIZE, present: tuple[bool, ...] | None = None) -> Phantom:
    """Draw a phantom; the same arguments always give the same one.

    Args:
        seed: of the random numbers.
        size: side of the picture in pixels.
        present: which of ``FINDINGS`` the phantom has; None gives each a probability of 0.3.
    """
    random = np.random.default_rng(seed)
    chance = tuple(bool(hit) for hit in random.random(len(FINDINGS)) < 0.3)
    has = dict(zip(FINDINGS, present if present is not None else chance, strict=True))
    row, column = np.mgrid[0:size, 0:size].astype(np.float32) / np.float32(size)
    body = _Body(random, row, column, cardiomegaly=has["Cardiomegaly"])
    picture = body.draw()
    if has["Consolidation"]:
        picture = body.consolidate(picture)
    if has["Nodule"]:
        picture = body.add_nodule(picture)
    if has["Effusion"]:
        picture = body.add_effusion(picture)
    if has["Pneumothorax"]:
        picture = body.add_pneumothorax(picture)
    picture = body.expose(picture)
    return Phantom(picture=picture, present=tuple(has.values()))


class _Body:
    """One patient: where the organs are, and how each is drawn onto a map of densities."""

    def __init__(
        self, random: np.random.Generator, row: Values, column: Values, *, cardiomegaly: bool
    ) -> None:
        self.random = random
        self.row = row
        self.column = column
        shift = random.normal(0, 0.015, 2)
        self.middle = 0.5 + float(shift[0])
        self.top = 0.16 + float(shift[1])
        self.bottom = 0.78 + float(random.normal(0, 0.02))
        self.lung_width = 0.15 + float(random.normal(0, 0.01))
        self.lungs = {side: self._lung(side) for side in (-1, 1)}
        low, high = (0.22, 0.28) if cardiomegaly else (0.12, 0.17)
        self.heart_width = float(random.uniform(low, high))

    def _soft_edge(self, signed: NDArray[np.floating], edge: float) -> Values:
        """A mask from signed distances: 1 inside (negative), 0 outside, with an edge of a given width between."""
        return (1 / (1 + np.exp(np.clip(signed / edge, -30, 30)))).astype(np.float32)

    def _ellipse(self, row: float, column: float, height: float, width: float, edge: float = 0.03) -> Values:
        distance = np.sqrt(((self.row - row) / height) ** 2 + ((self.column - column) / width) ** 2) - 1
        return self._soft_edge(distance, edge)

    def _lung(self, side: int) -> Values:
        centre = self.middle + side * 0.19
        span = self.bottom - self.top
        height = (self.row - self.top) / span
        taper = 0.55 + 0.45 * np.sin(np.clip(height, 0, 1) * np.pi * 0.62)
        sideways = np.abs(self.column - centre) / (self.lung_width * taper) - 1
        dome = self.bottom - 0.07 * np.exp(-(((self.column - centre + side * 0.03) / 0.12) ** 2)) * 0.8
        below = self._soft_edge(self.row - dome, 0.008)
        above = self._soft_edge(self.top - self.row, 0.012)
        return self._soft_edge(sideways, 0.06) * below * above

    def draw(self) -> Values:
        """Densities of a chest without findings, except for the size of the heart."""
        trunk = self._ellipse(0.72, self.middle, 0.75, 0.47) * 0.55
        picture = 0.05 + trunk
        for lung in self.lungs.values():
            picture -= lung * 0.36
        for side in (-1, 1):
            for number in range(9):
                self._rib(picture, side, number)
        picture += self._soft_edge(np.abs(self.column - self.middle) - 0.045, 0.01) * 0.16
        heart_row = self.bottom - 0.17
        heart = self._ellipse(heart_row, self.middle + 0.25 * self.heart_width, 0.17, self.heart_width, 0.05)
        picture += heart * np.clip(0.78 - picture, 0, 1)
        picture += self._ellipse(0.36, self.middle + 0.02, 0.16, 0.075, 0.2) * 0.14
        self._vessels(picture)
        return picture.astype(np.float32)

    def _rib(self, picture: Values, side: int, number: int) -> None:
        start = self.top + 0.02 + number * (self.bottom - self.top) / 9.5
        away = side * (self.column - self.middle)
        line = start + 0.28 * away - 0.55 * away**2
        inside = self._soft_edge(-away + 0.04, 0.01) * self._soft_edge(away - 0.38, 0.02)
        picture += self._soft_edge(np.abs(self.row - line) - 0.009, 0.004) * inside * 0.07

    def _vessels(self, picture: Values) -> None:
        for side, lung in self.lungs.items():
            hilum = (0.44, self.middle + side * 0.09)
            for _ in range(16):
                angle = self.random.uniform(-1.2, 1.2)
                length = self.random.uniform(0.08, 0.2)
                down, across = np.sin(angle), side * np.cos(angle)
                along = (self.row - hilum[0]) * down + (self.column - hilum[1]) * across
                beside = np.abs((self.row - hilum[0]) * across - (self.column - hilum[1]) * down)
                reach = self._soft_edge(-along, 0.01) * self._soft_edge(along - length, 0.03)
                picture += self._soft_edge(beside - 0.003, 0.002) * reach * lung * 0.06

    def _point_in_lung(self, side: int, low: float = 0.15, high: float = 0.85) -> tuple[float, float]:
        """A random point (row, column) in a lung."""
        row = self.top + (self.bottom - self.top) * float(self.random.uniform(low, high))
        column = self.middle + side * (0.19 + float(self.random.uniform(-0.06, 0.08)))
        return row, column

    def _random_side(self) -> int:
        return int(self.random.choice((-1, 1)))

    def consolidate(self, picture: Values) -> Values:
        """Draw a cloud of density in one lung."""
        side = self._random_side()
        cloud = np.zeros_like(picture)
        row, column = self._point_in_lung(side, 0.3, 0.8)
        for _ in range(10):
            r = row + float(self.random.normal(0, 0.035))
            c = column + float(self.random.normal(0, 0.03))
            size = float(self.random.uniform(0.03, 0.07))
            cloud = np.maximum(cloud, self._ellipse(r, c, size, size, 0.35))
        return picture + cloud * self.lungs[side] * np.float32(self.random.uniform(0.18, 0.28))

    def add_nodule(self, picture: Values) -> Values:
        """Draw a round, sharp density in one lung."""
        side = self._random_side()
        row, column = self._point_in_lung(side)
        radius = float(self.random.uniform(0.028, 0.045))
        disc = self._ellipse(row, column, radius, radius, 0.12)
        return picture + disc * np.float32(self.random.uniform(0.26, 0.38))

    def add_effusion(self, picture: Values) -> Values:
        """Draw fluid at the bottom of one lung, with a meniscus at its side."""
        side = self._random_side()
        level = self.bottom - float(self.random.uniform(0.14, 0.28))
        outward = side * (self.column - self.middle)
        meniscus = level - 0.12 * np.clip(outward - 0.2, 0, 1) / 0.15
        fluid = self._soft_edge(meniscus - self.row, 0.012) * self.lungs[side]
        return picture + fluid * np.clip(0.72 - picture, 0, 1)

    def add_pneumothorax(self, picture: Values) -> Values:
        """Draw air beside one lung: darker, without vessels, behind a thin pleural line."""
        side = self._random_side()
        edge = 0.19 + self.lung_width * float(self.random.uniform(0.25, 0.55))
        outward = side * (self.column - self.middle) + 0.35 * np.clip(0.35 - self.row, -0.2, 0.2)
        lung = self.lungs[side]
        air = self._soft_edge(edge - outward, 0.004) * lung
        line = self._soft_edge(np.abs(outward - edge) - 0.003, 0.0015) * lung
        return picture * (1 - air) + air * np.float32(0.1) + line * np.float32(0.12)

    def expose(self, picture: Values) -> Values:
        """The detector's picture of the densities: with random contrast, brightness, shading and noise."""
        contrast, offset = self.random.uniform(0.85, 1.2), self.random.uniform(-0.06, 0.06)
        noise = self.random.normal(0, self.random.uniform(0.005, 0.02), picture.shape)
        shade = self.random.uniform(-0.06, 0.06) * (self.row - 0.5)
        exposed = (picture - 0.4) * contrast + 0.4 + offset + noise + shade
        return np.clip(exposed, 0, 1).astype(np.float32)


def phantom_dicom(seed: int, present: tuple[bool, ...] | None = None) -> Dataset:
    """A phantom as a Digital X-Ray Image, ready to be saved; the same arguments always give the same object.

    The patient's name starts with Phantom and the birth date is empty. UIDs derive from the arguments (PS3.5
    annex B.2).
    """
    phantom = chest_phantom(seed, DICOM_SIZE, present)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = _uid(seed, present, "instance")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID = _uid(seed, present, "study")
    dataset.SeriesInstanceUID = _uid(seed, present, "series")
    _describe_study(dataset, seed)
    _describe_acquisition(dataset)
    _describe_pixels(dataset, phantom.picture)
    return dataset


def _uid(seed: int, present: tuple[bool, ...] | None, part: str) -> UID:
    digest = hashlib.sha256(f"phantom {seed} {present} {part}".encode()).digest()
    return UID(f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}")


def _describe_study(dataset: Dataset, seed: int) -> None:
    dataset.PatientName = f"Phantom^{seed}"
    dataset.PatientID = f"PHANTOM-{seed}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20260101"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "120000"
    dataset.AccessionNumber = f"P{seed}"
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = str(seed)
    dataset.StudyDescription = "Chest phantom"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = 1
    dataset.Manufacturer = "overread"
    dataset.ManufacturerModelName = "Chest phantom"
    dataset.DeviceSerialNumber = "1"
    dataset.SoftwareVersions = "1"


def _describe_acquisition(dataset: Dataset) -> None:
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageLaterality = "U"
    dataset.DetectorType = "DIRECT"
    dataset.PositionerType = "NONE"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.ImagerPixelSpacing = [PIXEL_SPACING_MM, PIXEL_SPACING_MM]
    dataset.AcquisitionContextSequence = []
    dataset.AnatomicRegionSequence = [_item(codes.SCT.Chest)]
    view = _item(codes.SCT.PosteroAnterior)
    view.ViewModifierCodeSequence = []
    dataset.ViewCodeSequence = [view]


def _item(code: object) -> Dataset:
    item = Dataset()
    item.CodeValue = code.value  # type: ignore[attr-defined]
    item.CodingSchemeDesignator = code.scheme_designator  # type: ignore[attr-defined]
    item.CodeMeaning = code.meaning  # type: ignore[attr-defined]
    return item


def _describe_pixels(dataset: Dataset, picture: Values) -> None:
    most = (1 << BITS_STORED) - 1
    dataset.Rows, dataset.Columns = picture.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 16
    dataset.BitsStored = BITS_STORED
    dataset.HighBit = BITS_STORED - 1
    dataset.PixelRepresentation = 0
    dataset.PixelIntensityRelationship = "LIN"
    dataset.PixelIntensityRelationshipSign = -1
    dataset.RescaleIntercept = 0
    dataset.RescaleSlope = 1
    dataset.RescaleType = "US"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.WindowCenter = (most + 1) / 2
    dataset.WindowWidth = most + 1
    dataset.PixelData = np.rint(picture * most).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
