"""Series become volumes with an exact geometry, or are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID

from inference.demo.volume_phantoms import SliceGeometry, straight_geometry, write_ct_series
from inference.reading.slices import frames_of_files
from inference.volumes.resampling import regular_grid, to_frames, to_grid
from inference.volumes.volume import read_series

SHAPE = (12, 40, 48)
SPACING = (2.5, 0.8, 0.9)
HEAD = "ct_head_ge"

Field = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def blobs(centres: NDArray[np.float64], sigma: float) -> Field:
    """Gaussian blobs at LPS points; takes points (..., 3)."""

    def value(points: NDArray[np.float64]) -> NDArray[np.float64]:
        squared = ((points[..., None, :] - centres) ** 2).sum(axis=-1)
        return np.asarray(1000 * np.exp(-squared / (2 * sigma**2)).sum(axis=-1))

    return value


def scanned(geometry: SliceGeometry, rows: int, columns: int, field: Field) -> NDArray[np.float64]:
    """A field at the pixels of slices, shape (slices, rows, columns)."""
    row_direction, column_direction = np.array(geometry.orientation[:3]), np.array(geometry.orientation[3:])
    row, column = np.mgrid[0:rows, 0:columns]
    inside = (
        row[..., None] * geometry.spacing[0] * column_direction
        + column[..., None] * geometry.spacing[1] * row_direction
    )
    return np.stack([field(position + inside) for position in geometry.positions])


def centroid(
    values: NDArray[np.floating], affine: NDArray[np.float64], near: NDArray[np.float64], reach: float
) -> NDArray[np.float64]:
    """Centre of mass in LPS of what lies within ``reach`` mm of a point."""
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in values.shape), indexing="ij"), axis=-1)
    points = indices @ affine[:3, :3].T + affine[:3, 3]
    weights = values * (np.linalg.norm(points - near, axis=-1) < reach)
    return np.asarray((points * weights[..., None]).sum(axis=(0, 1, 2)) / weights.sum())


def straight_series(folder: Path, values: NDArray[np.floating] | None = None) -> list[Path]:
    ramp = np.arange(np.prod(SHAPE), dtype=float).reshape(SHAPE) % 3000 - 1000
    return write_ct_series(
        folder, ramp if values is None else values, straight_geometry(SHAPE, SPACING), body_part="CHEST"
    )


def edited(path: Path, **attributes: object) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def test_slices_are_sorted_along_the_normal_and_rescaled(tmp_path: Path) -> None:
    paths = straight_series(tmp_path)
    (volume,) = read_series(paths[::-1]).volumes
    expected = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3000 - 1000
    assert np.array_equal(volume.values, expected)
    assert volume.values.dtype == np.int16
    assert not volume.tilted and volume.remarks == ()
    grid = regular_grid(volume)
    assert grid.shape == SHAPE
    assert grid.spacing == pytest.approx(SPACING)
    first = pydicom.dcmread(paths[0]).ImagePositionPatient
    assert grid.to_patient(np.zeros((1, 3)))[0] == pytest.approx([float(value) for value in first])
    assert np.array_equal(to_grid(volume, grid, outside=-1024), expected.astype(np.float32))


def test_zeros_on_slices_stay_zeros(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 2, (18, 6, 5)) * 700.0
    paths = write_ct_series(
        tmp_path, values, straight_geometry(values.shape, (3.3, 2.6, 3.7)), body_part="HEAD"
    )
    (volume,) = read_series(paths).volumes
    assert np.array_equal(to_grid(volume, regular_grid(volume), outside=0), values)


def test_fractional_slopes_of_each_slice_are_kept(tmp_path: Path) -> None:
    paths = straight_series(tmp_path, np.full(SHAPE, 100.0))
    for number, path in enumerate(paths):
        edited(path, RescaleSlope=str(1 + number / 10), RescaleIntercept="0")
    (volume,) = read_series(paths).volumes
    assert volume.values.dtype == np.float32
    assert volume.values[:, 0, 0] == pytest.approx(1124 * (1 + np.arange(len(paths)) / 10))


def test_rescale_slope_that_is_no_number_or_zero_is_refused(tmp_path: Path) -> None:
    paths = straight_series(tmp_path)
    edited(paths[3], RescaleSlope="0")
    series = read_series(paths)
    assert series.refused == ("Rescale Slope is 0",)


@pytest.mark.parametrize(
    ("attribute", "values"),
    [
        ("EchoTime", ["10", "90"]),
        ("TemporalPositionIdentifier", ["1", "2"]),
        ("AcquisitionNumber", ["1", "2"]),
    ],
)
def test_volumes_in_one_series_are_separated(tmp_path: Path, attribute: str, values: list[str]) -> None:
    paths = [*straight_series(tmp_path / "a"), *straight_series(tmp_path / "b", np.full(SHAPE, 7.0))]
    frame_of_reference = pydicom.dcmread(paths[0]).FrameOfReferenceUID
    for index, path in enumerate(paths):
        half = index // SHAPE[0]
        edited(
            path,
            FrameOfReferenceUID=frame_of_reference,
            InstanceNumber=index + 1,
            **{attribute: values[half]},
        )
    volumes = read_series(paths).volumes
    assert [len(volume.frames) for volume in volumes] == [SHAPE[0]] * 2
    assert sum(bool((volume.values == 7).all()) for volume in volumes) == 1


def test_acquisition_number_of_every_slice_separates_nothing(tmp_path: Path) -> None:
    paths = straight_series(tmp_path)
    for number, path in enumerate(paths):
        edited(path, AcquisitionNumber=number // 2)
    assert len(read_series(paths).volumes) == 1


def test_slices_sent_twice_are_used_once(tmp_path: Path) -> None:
    paths = straight_series(tmp_path)
    (volume,) = read_series([*paths, paths[4]]).volumes
    assert len(volume.frames) == SHAPE[0]
    assert volume.remarks == ("1 slices were sent twice and used once",)


def test_other_slices_at_the_same_place_are_refused(tmp_path: Path) -> None:
    paths = [*straight_series(tmp_path / "a"), *straight_series(tmp_path / "b", np.full(SHAPE, 7.0))]
    frame_of_reference = pydicom.dcmread(paths[0]).FrameOfReferenceUID
    for path in paths:
        edited(path, FrameOfReferenceUID=frame_of_reference)
    series = read_series(paths)
    assert series.volumes == ()
    assert "are at the same position as others" in series.refused[0]


def test_slices_of_another_patient_are_not_mixed_in(tmp_path: Path) -> None:
    paths = straight_series(tmp_path)
    edited(paths[3], PatientID="OTHER")
    series = read_series(paths)
    assert series.volumes == ()
    assert series.refused == ("the images of the series are of 2 patients, and a report is about one",)


def test_missing_slices_and_mixed_matrices_are_refused(tmp_path: Path) -> None:
    paths = straight_series(tmp_path)
    series = read_series(paths[:3] + paths[9:])
    assert series.volumes == ()
    assert "slices are missing: a gap of 17.5 mm" in series.refused[0]


def test_localizer_of_another_orientation_stays_out(tmp_path: Path) -> None:
    paths = straight_series(tmp_path)
    edited(paths[0], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    series = read_series(paths)
    assert [len(volume.frames) for volume in series.volumes] == [SHAPE[0] - 1]
    assert series.refused == ("1 slices are no volume; at least 2 are needed",)


def head_geometry(real_data: Path) -> SliceGeometry:
    frames = frames_of_files(sorted((real_data / HEAD).glob("*.dcm"))).frames
    plane = frames[0].plane
    return SliceGeometry(
        positions=np.array([frame.plane.position for frame in frames]),
        orientation=(*plane.row_direction, *plane.column_direction),
        spacing=(plane.spacing[0] * 4, plane.spacing[1] * 4),
    )


def test_distances_are_true_on_a_tilted_head_with_uneven_gaps(tmp_path: Path, real_data: Path) -> None:
    geometry = head_geometry(real_data)
    middle = geometry.positions.mean(axis=0) + np.array([125.0, 118.0, -40.0])
    centres = middle + np.array([[-30.0, -25.0, -45.0], [25.0, 30.0, 48.0]])
    values = scanned(geometry, 128, 128, blobs(centres, 6.0))
    paths = write_ct_series(tmp_path, values, geometry, body_part="HEAD")
    (volume,) = read_series(paths).volumes
    assert volume.tilted
    assert any("tilted" in remark for remark in volume.remarks)
    grid = regular_grid(volume, (2.0, 2.0, 2.0))
    resampled = np.clip(to_grid(volume, grid, outside=0.0), 0, None)
    found = np.array([centroid(resampled, grid.affine, centre, 18.0) for centre in centres])
    assert np.linalg.norm(found - centres, axis=1).max() < 0.5
    distance = np.linalg.norm(centres[0] - centres[1])
    assert abs(np.linalg.norm(found[0] - found[1]) - distance) < 0.5
    # The same slices simply piled up, as if the gantry were upright and the gaps even, are far off.
    piled = np.diag([float(np.median(volume.gaps)), *geometry.spacing, 1.0])
    naive = [
        centroid(
            values,
            piled,
            np.array(np.unravel_index(np.argmax(part), SHAPE3), dtype=float) @ piled[:3, :3],
            18.0,
        )
        for SHAPE3, part in (
            (values.shape, np.where(np.arange(len(values))[:, None, None] < 12, values, 0)),
            (values.shape, np.where(np.arange(len(values))[:, None, None] >= 12, values, 0)),
        )
    ]
    assert abs(np.linalg.norm(naive[0] - naive[1]) - distance) > 5


@pytest.mark.parametrize("kind", ["oblique", "tilted"])
def test_masks_go_back_to_the_slices_within_half_a_voxel(tmp_path: Path, real_data: Path, kind: str) -> None:
    if kind == "tilted":
        geometry = head_geometry(real_data)
        centre = geometry.positions[14] + np.array([115.0, 110.0, 30.0])
        rows = columns = 128
    else:
        row, column = np.array([0.8, 0.6, 0.0]), np.array([-0.36, 0.48, 0.8])
        normal = np.cross(row, column)
        geometry = SliceGeometry(
            positions=np.array([10.0, -20.0, 5.0]) + np.arange(30)[:, None] * 2.0 * normal,
            orientation=(*row, *column),
            spacing=(1.5, 1.25),
        )
        rows, columns = 60, 70
        centre = geometry.positions[15] + row * 40 + column * 45
    values = scanned(geometry, rows, columns, blobs(centre[None], 9.0))
    paths = write_ct_series(tmp_path, values, geometry, body_part="HEAD")
    (volume,) = read_series(paths).volumes
    grid = regular_grid(volume, (1.5, 1.5, 1.5))
    ball = np.linalg.norm(
        np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1) @ grid.affine[:3, :3].T
        + grid.affine[:3, 3]
        - centre,
        axis=-1,
    )
    back = to_frames((ball < 14).astype(np.uint8), grid.affine, volume.frames)
    true = scanned(geometry, rows, columns, lambda points: np.linalg.norm(points - centre, axis=-1))
    half_voxel = 1.5 * np.sqrt(3) / 2
    assert (back[true < 14 - half_voxel] == 1).all()
    assert (back[true > 14 + half_voxel] == 0).all()
    if kind == "oblique":
        volume_mm3 = back.sum() * 2.0 * geometry.spacing[0] * geometry.spacing[1]
        assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.03)


def test_enhanced_multi_frame_is_the_same_volume(tmp_path: Path) -> None:
    paths = straight_series(tmp_path / "classic")
    (classic,) = read_series(paths).volumes
    enhanced = pydicom.dcmread(paths[0])
    enhanced.SOPClassUID = enhanced.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2.1")
    enhanced.NumberOfFrames = len(paths)
    shared, per_frame = Dataset(), []
    measures, orientation, rescale = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = enhanced.PixelSpacing, "2.5"
    orientation.ImageOrientationPatient = enhanced.ImageOrientationPatient
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = "1", "-1024", "HU"
    shared.PixelMeasuresSequence = DicomSequence([measures])
    shared.PlaneOrientationSequence = DicomSequence([orientation])
    shared.PixelValueTransformationSequence = DicomSequence([rescale])
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(enhanced, keyword)
    for path in paths[::-1]:
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = pydicom.dcmread(path).ImagePositionPatient
        group.PlanePositionSequence = DicomSequence([position])
        per_frame.append(group)
    enhanced.SharedFunctionalGroupsSequence = DicomSequence([shared])
    enhanced.PerFrameFunctionalGroupsSequence = DicomSequence(per_frame)
    enhanced.PixelData = b"".join(pydicom.dcmread(path).PixelData for path in paths[::-1])
    file = tmp_path / "enhanced.dcm"
    enhanced.save_as(file)
    (volume,) = read_series([file]).volumes
    assert np.array_equal(volume.values, classic.values)
    assert [frame.source.frame for frame in volume.frames] == list(range(len(paths), 0, -1))
    assert regular_grid(volume).affine == pytest.approx(regular_grid(classic).affine)


def test_mosaic_tiles_are_slices_around_the_middle(real_data: Path) -> None:
    files = sorted((real_data / "mr_brain_siemens").glob("epi_pe_ap-*.dcm"))
    volumes = read_series(files).volumes
    assert [len(volume.frames) for volume in volumes] == [5, 5]
    for volume in volumes:
        assert volume.values.shape == (5, 72, 72)
        assert volume.remarks == ()
        # 72 x 72 pixels of 3 mm around the middle of the scanner's bore.
        assert volume.frames[0].plane.position[:2] == (-108.0, -108.0)
    assert not np.array_equal(volumes[0].values, volumes[1].values)


def test_gantry_tilt_and_gaps_of_the_real_head_are_seen(real_data: Path) -> None:
    (volume,) = read_series(sorted((real_data / HEAD).glob("*.dcm"))).volumes
    assert len(volume.frames) == 28
    assert volume.tilted
    assert (round(volume.gaps.min(), 2), round(volume.gaps.max(), 2)) == (1.08, 7.0)


def test_compressed_slices_are_read_like_native_ones(tmp_path: Path) -> None:
    paths = straight_series(tmp_path)
    (native,) = read_series(paths).volumes
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.compress("1.2.840.10008.1.2.5")
        dataset.save_as(path)
    (compressed,) = read_series(paths).volumes
    assert np.array_equal(compressed.values, native.values)


def test_patient_is_the_same_however_the_slices_are_stored(tmp_path: Path) -> None:
    paths = straight_series(tmp_path)
    for number, path in enumerate(paths):
        edited(path, SpecificCharacterSet="ISO_IR 192", PatientID="患者 Ä1")
        if number % 2:
            dataset = pydicom.dcmread(path)
            dataset.compress("1.2.840.10008.1.2.5")
            dataset.save_as(path)
    series = read_series(paths)
    assert series.refused == ()
    assert len(series.volumes[0].frames) == len(paths)


def test_truncated_slice_is_refused_and_the_others_remain(tmp_path: Path) -> None:
    paths = straight_series(tmp_path)
    data = paths[5].read_bytes()
    paths[5].write_bytes(data[: len(data) // 2])
    series = read_series(paths)
    assert any("pixel data" in reason or "damaged" in reason for reason in series.refused)


def test_frames_carry_no_pixels_of_other_files(tmp_path: Path) -> None:
    frames = frames_of_files(straight_series(tmp_path)).frames
    assert len({frame.source.sop_instance_uid for frame in frames}) == len(frames)
    assert replace(frames[0]) == frames[0]


@pytest.mark.parametrize("compressed", [False, True], ids=["native", "compressed"])
@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("PixelSpacing", b"0\\0 ", "Pixel Spacing is not above 0"),
        ("PixelSpacing", b"-1\\1", "Pixel Spacing is not above 0"),
        ("PixelSpacing", b"NaN\\1 ", "no Pixel Spacing of 2 numbers"),
        ("PixelSpacing", b"1e999\\1 ", "no Pixel Spacing of 2 numbers"),
        ("PixelSpacing", b"", "no Pixel Spacing of 2 numbers"),
        ("ImagePositionPatient", b"NaN\\0\\0 ", "no Image Position of 3 numbers"),
        ("ImageOrientationPatient", b"0\\0\\0\\0\\0\\0 ", "no two unit vectors"),
        ("RescaleSlope", b"inf ", "RescaleSlope is no number"),
        ("SOPInstanceUID", b"../../1.2 ", "SOP Instance UID is missing or invalid"),
    ],
)
def test_geometry_that_is_none_gives_no_volume(
    tmp_path: Path, keyword: str, value: bytes, reason: str, compressed: bool
) -> None:
    """Nothing is measured in mm by such a header: the slices are refused with the reason."""
    paths = straight_series(tmp_path)
    for path in paths:
        dataset = pydicom.dcmread(path)
        if compressed:
            dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        element = dataset[keyword]
        dataset[element.tag] = RawDataElement(element.tag, element.VR, len(value), value, 0, False, True)
        dataset.save_as(path)
    series = read_series(paths)
    assert series.volumes == ()
    assert any(reason in text for text in series.refused), series.refused
