"""Drawn CT volumes with known findings: nodules and vessels in a lung, lesions in a head.

They are for demonstrations, training and tests, and say nothing about real patients. Arrays hold Hounsfield units and
have the axes (slice, row, column). Lengths are in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.ndimage import gaussian_filter

Values = NDArray[np.float32]
Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class PlantedNodule:
    """A nodule of a phantom; ``centre`` is (slice, row, column) in mm from the first voxel's centre."""

    centre: tuple[float, float, float]
    diameter: float
    malignant: bool


@dataclass(frozen=True, kw_only=True)
class LungPhantom:
    """A block of lung; ``mask`` is True inside nodules."""

    values: Values = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)
    spacing: tuple[float, float, float]
    nodules: tuple[PlantedNodule, ...]


def lung_phantom(
    seed: int,
    shape: Size = (96, 128, 128),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    nodules: int | None = None,
    centred: bool = False,
) -> LungPhantom:
    """Draw lung with vessels, sometimes a chest wall on one side, and nodules.

    Nodules called malignant are large and have spicules.

    Args:
        seed: of the random numbers.
        shape: of the volume, in voxels.
        spacing: of the voxels, in mm.
        nodules: how many to try; ones too near to another are left out. None takes 0 to 3 at random.
        centred: put the first nodule near the middle.
    """
    random = np.random.default_rng(seed)
    extent = np.array(shape) * np.array(spacing)
    axes = [np.arange(n, dtype=np.float32) * s for n, s in zip(shape, spacing, strict=True)]
    values = np.full(shape, -860.0, dtype=np.float32)
    values += gaussian_filter(random.normal(0, 1, shape).astype(np.float32), 2.0) * 120
    if random.random() < 0.5:
        _add_wall(values, axes, random)
    for _ in range(int(extent.prod() / 50_000) + 2):
        _add_vessel(values, axes, extent, random)
    mask = np.zeros(shape, dtype=bool)
    planted: list[PlantedNodule] = []
    count = int(random.integers(0, 4)) if nodules is None else nodules
    for number in range(count):
        diameter = float(random.uniform(5, 20))
        margin = np.minimum(diameter / 2 + 2, extent / 2 - 1)
        centre = random.uniform(margin, extent - margin)
        if centred and number == 0:
            centre = extent / 2 + random.uniform(-6, 6, 3)
        if any(
            np.linalg.norm(centre - np.array(p.centre)) < (p.diameter + diameter) / 2 + 6 for p in planted
        ):
            continue
        malignant = diameter > 10 and bool(random.random() < 0.6)
        _add_nodule(values, mask, axes, centre, diameter, random, spiculated=malignant)
        position = (float(centre[0]), float(centre[1]), float(centre[2]))
        planted.append(PlantedNodule(centre=position, diameter=diameter, malignant=malignant))
    values += random.normal(0, 25, shape).astype(np.float32)
    return LungPhantom(values=values, mask=mask, spacing=spacing, nodules=tuple(planted))


def _neighbourhood(
    axes: Sequence[Values], centre: NDArray[np.float64], reach: float
) -> tuple[slice, slice, slice]:
    """The part of the arrays that is at most ``reach`` mm from a point along each axis."""
    parts = [
        slice(
            int(np.searchsorted(axis, middle - reach)),
            int(np.searchsorted(axis, middle + reach, side="right")),
        )
        for axis, middle in zip(axes, centre, strict=True)
    ]
    return parts[0], parts[1], parts[2]


def _distance(axes: Sequence[Values], part: Sequence[slice], centre: NDArray[np.float64]) -> Values:
    z, y, x = (axis[p] - np.float32(c) for axis, p, c in zip(axes, part, centre, strict=True))
    return np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)


def _add_wall(values: Values, axes: Sequence[Values], random: np.random.Generator) -> None:
    depth = random.uniform(2, 14)
    edge = axes[1][-1] - depth + 6 * np.cos(axes[2] / random.uniform(25, 50))
    values[:] = np.where(axes[1][None, :, None] > edge[None, None, :], np.float32(40), values)


def _add_vessel(
    values: Values, axes: Sequence[Values], extent: NDArray[np.float64], random: np.random.Generator
) -> None:
    """Draw a winding tube that becomes thinner."""
    point = random.uniform(0, extent)
    direction = random.normal(0, 1, 3)
    radius = float(random.uniform(1.0, 3.2))
    for _ in range(int(random.uniform(20, 70))):
        direction = direction / np.linalg.norm(direction) + random.normal(0, 0.25, 3)
        point = point + direction / np.linalg.norm(direction) * 1.5
        radius *= 0.985
        part = _neighbourhood(axes, point, radius + 1.5)
        if any(p.start >= p.stop for p in part):
            continue
        blend = np.clip(radius + 0.5 - _distance(axes, part, point), 0, 1)
        values[part] = np.maximum(values[part], values[part] * (1 - blend) + 30 * blend)


def _add_nodule(
    values: Values,
    mask: NDArray[np.bool_],
    axes: Sequence[Values],
    centre: NDArray[np.float64],
    diameter: float,
    random: np.random.Generator,
    *,
    spiculated: bool,
) -> None:
    radius = diameter / 2
    density = float(random.uniform(-150, 60))
    part = _neighbourhood(axes, centre, radius + 2)
    distance = _distance(axes, part, centre)
    blend = np.clip(radius + 0.5 - distance, 0, 1)
    values[part] = values[part] * (1 - blend) + np.float32(density) * blend
    mask[part] |= distance <= radius
    for _ in range(12 if spiculated else 0):
        ray = random.normal(0, 1, 3)
        ray /= np.linalg.norm(ray)
        for step in np.arange(radius, radius + random.uniform(3, 6), 0.7):
            point = centre + ray * step
            near = _neighbourhood(axes, point, 1.6)
            if any(p.start >= p.stop for p in near):
                continue
            thin = np.clip(1.4 - _distance(axes, near, point), 0, 1)
            values[near] = np.maximum(values[near], values[near] * (1 - thin) + np.float32(density) * thin)


@dataclass(frozen=True, kw_only=True)
class HeadPhantom:
    """Slices of a head; ``lesion`` and ``haemorrhage`` say for each slice whether it shows one, shape (slices,)."""

    values: Values = field(repr=False)
    lesion: NDArray[np.bool_]
    haemorrhage: NDArray[np.bool_]
    spacing: tuple[float, float, float]


def head_phantom(
    seed: int,
    slices: int = 24,
    size: int = 256,
    *,
    lesion: bool | None = None,
    haemorrhage: bool | None = None,
) -> HeadPhantom:
    """Draw a head with skull, brain and ventricles, in 5 mm slices with a field of 230 mm.

    Args:
        seed: of the random numbers.
        slices: number of slices.
        size: side of a slice in pixels.
        lesion: whether there are lesions; None decides at random (probability 0.5).
        haemorrhage: whether there is a haemorrhage; None decides at random (probability 0.4).
    """
    random = np.random.default_rng(seed)
    lesion = bool(random.random() < 0.5) if lesion is None else lesion
    haemorrhage = bool(random.random() < 0.4) if haemorrhage is None else haemorrhage
    spacing = (5.0, 230 / size, 230 / size)
    z = (np.arange(slices, dtype=np.float32) - slices / 2) * spacing[0]
    offsets = (np.arange(size, dtype=np.float32) - size / 2) * spacing[1]
    height, y, x = z[:, None, None], offsets[None, :, None], offsets[None, None, :]
    long, wide = random.uniform(88, 96), random.uniform(68, 76)
    tall = slices * spacing[0] * 0.62
    radius = np.sqrt((y / long) ** 2 + (x / wide) ** 2 + (height / tall) ** 2)
    values = np.full((slices, size, size), -1000, dtype=np.float32)
    values[radius < 1.06] = 20
    values[radius < 1.0] = 1000
    brain = radius < 0.92
    texture = gaussian_filter(random.normal(0, 1, values.shape).astype(np.float32), (1, 4, 4)) * 40
    values[brain] = (35 + texture)[brain]
    for side in (-1, 1):
        offset = random.uniform(9, 13)
        ventricle = ((x - side * offset) / 6) ** 2 + ((y - 5) / 24) ** 2 + (height / 22) ** 2 < 1
        values[ventricle & brain] = 8
    shown = np.zeros(slices, dtype=bool)
    bleeding = np.zeros(slices, dtype=bool)
    if lesion:
        for _ in range(int(random.integers(1, 4))):
            shown |= _add_lesion(values, brain, (height, y, x), (tall, long, wide), random)
    if haemorrhage:
        side = random.choice([-1, 1])
        crescent = (
            brain & (radius > random.uniform(0.78, 0.83)) & (side * x > 0.55 * wide * (1 - abs(y) / long))
        )
        crescent &= np.abs(height - random.uniform(-15, 15)) < random.uniform(12, 25)
        values[crescent] = random.uniform(60, 72)
        bleeding = crescent.sum(axis=(1, 2)) > 30
    values += random.normal(0, 3.0, values.shape).astype(np.float32)
    return HeadPhantom(values=values, lesion=shown, haemorrhage=bleeding, spacing=spacing)


def _add_lesion(
    values: Values,
    brain: NDArray[np.bool_],
    axes: tuple[Values, Values, Values],
    extent: tuple[float, float, float],
    random: np.random.Generator,
) -> NDArray[np.bool_]:
    """Draw a round dense lesion with oedema around it; gives for each slice whether it shows the lesion."""
    direction = random.normal(0, 1, 3)
    direction *= random.uniform(0.1, 0.6) / np.linalg.norm(direction)
    centre = direction * np.array(extent)
    radius = float(random.uniform(4, 10))
    distance = np.sqrt(sum((axis - np.float32(c)) ** 2 for axis, c in zip(axes, centre, strict=True)))
    values[brain & (distance < radius * random.uniform(1.5, 2.2))] = 22
    inside = brain & (distance < radius)
    values[inside] = random.uniform(55, 68)
    return np.asarray(inside.sum(axis=(1, 2)) > 20)


@dataclass(frozen=True, kw_only=True)
class SliceGeometry:
    """Where the slices of a generated series lie.

    ``positions`` are LPS coordinates of the centre of each slice's first pixel, shape (slices, 3). ``orientation`` is
    Image Orientation Patient. ``spacing`` is the distance between rows and between columns.
    """

    positions: NDArray[np.float64]
    orientation: tuple[float, float, float, float, float, float]
    spacing: tuple[float, float]


def straight_geometry(shape: Size, spacing: tuple[float, float, float]) -> SliceGeometry:
    """Axial slices centred on the origin of the patient coordinates; the first is nearest to the feet."""
    positions = np.zeros((shape[0], 3))
    positions[:, 0] = -(shape[2] - 1) * spacing[2] / 2
    positions[:, 1] = -(shape[1] - 1) * spacing[1] / 2
    positions[:, 2] = (np.arange(shape[0]) - (shape[0] - 1) / 2) * spacing[0]
    return SliceGeometry(positions=positions, orientation=(1, 0, 0, 0, 1, 0), spacing=spacing[1:])


def write_ct_series(
    folder: Path,
    values: NDArray[np.floating],
    geometry: SliceGeometry,
    *,
    body_part: str,
    seed: str | None = None,
    patient_name: str = "Phantom^Volume",
) -> list[Path]:
    """Write slices as a CT series in a new study.

    Args:
        folder: where the files go.
        values: Hounsfield units, shape (slices, rows, columns).
        geometry: where the slices lie.
        body_part: Body Part Examined.
        seed: equal seeds give equal UIDs; None makes random ones.
        patient_name: Patient's Name.

    Returns:
        The files, in the order of the slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entropy = None if seed is None else [seed]
    study, series, frame_of_reference = (
        generate_uid(entropy_srcs=None if entropy is None else [*entropy, part])
        for part in ("study", "series", "frame of reference")
    )
    paths: list[Path] = []
    for number, (picture, position) in enumerate(zip(values, geometry.positions, strict=True), start=1):
        uid = generate_uid(entropy_srcs=None if entropy is None else [*entropy, str(number)])
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = frame_of_reference, ""
        dataset.PatientName, dataset.PatientID = patient_name, "PHANTOM"
        dataset.PatientBirthDate = dataset.PatientSex = dataset.ReferringPhysicianName = ""
        dataset.StudyDate, dataset.StudyTime = "20260102", "030405"
        dataset.AccessionNumber, dataset.StudyID = "", "1"
        dataset.Modality, dataset.BodyPartExamined = "CT", body_part
        dataset.Manufacturer = "overread phantom"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.SeriesNumber, dataset.AcquisitionNumber, dataset.InstanceNumber = 1, 1, number
        dataset.ImagePositionPatient = [f"{value:.6g}" for value in position]
        dataset.ImageOrientationPatient = [f"{value:.8g}" for value in geometry.orientation]
        dataset.PixelSpacing = [f"{value:.8g}" for value in geometry.spacing]
        dataset.SliceThickness, dataset.KVP = "1", "120"
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = picture.shape
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = 1
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "-1024", "1", "HU"
        dataset.WindowCenter, dataset.WindowWidth = "40", "400"
        stored = np.clip(np.rint(picture) + 1024, -32768, 32767).astype("<i2")
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OW"
        path = folder / f"{number:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
