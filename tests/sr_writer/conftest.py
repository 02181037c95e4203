"""Source images, real and generated, and hand-made analyses of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from inference.findings import (
    Analysis,
    Code,
    Finding,
    Heatmap,
    Label,
    ModelIdentity,
    Region,
    SourceImage,
    Thresholds,
)
from sr_writer import ReportContext

DATA = Path(__file__).parents[3] / "shared" / "data" / "cxr"
"""Real test images, beside the checkout."""

THRESHOLDS = Thresholds(low=0.2, high=0.5, critical=0.75)

LABELS = (
    Label(name="Atelectasis", thresholds=THRESHOLDS),
    Label(
        name="Pneumothorax",
        thresholds=THRESHOLDS,
        finding=Code(value="36118008", scheme="SCT", meaning="Pneumothorax"),
        site=Code(value="39607008", scheme="SCT", meaning="Lung"),
    ),
    Label(
        name="Cardiomegaly",
        thresholds=THRESHOLDS,
        finding=Code(value="287272002", scheme="SCT", meaning="Cardiomegaly"),
    ),
    Label(
        name="Enlarged Cardiomediastinum",
        thresholds=THRESHOLDS,
        finding=Code(value="1234567890", scheme="SCT", meaning="A code of no dictionary"),
    ),
)

MODEL = ModelIdentity(
    name="densenet121-test",
    version="1.0 (0123abcd)",
    sha256="0123abcd" * 8,
    kind="chest_xray",
    manufacturer="torchxrayvision",
    licence="Apache-2.0",
)

DEMONSTRATION_MODEL = ModelIdentity(
    name="demo",
    version="1 (89ef89ef)",
    sha256="89ef" * 16,
    kind="chest_xray",
    manufacturer="overread",
    licence="MIT",
    demonstration=True,
)

CONTEXT = ReportContext(
    job_seed="study|series|cxr|1.0|digest",
    engine_name="cxr",
    content_datetime=datetime(2026, 3, 4, 23, 30, 15, tzinfo=UTC),
    series_number=9001,
    software_version="0.1.0",
    timezone=UTC,
)


@pytest.fixture
def context() -> ReportContext:
    return CONTEXT


@pytest.fixture
def jpeg_image() -> Path:
    return _real("rsna_pa_jpeg_sc_class.dcm")


@pytest.fixture
def monochrome1_image() -> Path:
    return _real("rsna_pa_monochrome1.dcm")


def _real(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


MakeImage = Callable[..., Path]


@pytest.fixture
def make_image(tmp_path: Path) -> MakeImage:
    """Writes a small DX image whose header has the given attributes and else nothing but UIDs."""

    def make(name: str = "image", *, implicit: bool = False, **attributes: Any) -> Path:
        dataset = Dataset()
        dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
        dataset.SOPInstanceUID = UID(f"1.2.3.4.{sum(name.encode())}")
        dataset.StudyInstanceUID = UID("1.2.3.1")
        dataset.SeriesInstanceUID = UID("1.2.3.2")
        dataset.Rows, dataset.Columns = 60, 50
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.PixelRepresentation = 0
        dataset.add_new("PixelData", "OB", np.random.default_rng(7).bytes(60 * 50))
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        path = tmp_path / f"{name}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return make


MakeAnalysis = Callable[..., Analysis]


@pytest.fixture
def make_analysis() -> MakeAnalysis:
    """Analysis of an image with one probability for each of ``LABELS``.

    Labels at or above their high threshold have a heat map and ``regions`` regions. ``deviation`` is that of
    several predictions.
    """

    def make(
        path: Path,
        probabilities: Sequence[float] = (0.1, 0.9, 0.6, 0.3),
        *,
        regions: int = 1,
        model: ModelIdentity = MODEL,
        review_advised: str | None = None,
        deviation: float | None = None,
    ) -> Analysis:
        header = pydicom.dcmread(path)
        picture = header.pixel_array
        if header.PhotometricInterpretation == "MONOCHROME1":
            picture = 255 - picture
        findings = tuple(
            replace(_finding(label, probability, picture.shape, regions), ensemble_std=deviation)
            for label, probability in zip(LABELS, probabilities, strict=True)
        )
        return Analysis(
            source=SourceImage(
                path=path,
                study_instance_uid=str(header.StudyInstanceUID),
                series_instance_uid=str(header.SeriesInstanceUID),
                sop_class_uid=str(header.SOPClassUID),
                sop_instance_uid=str(header.SOPInstanceUID),
                rows=header.Rows,
                columns=header.Columns,
            ),
            model=model,
            findings=findings,
            picture=picture,
            device="cpu",
            inference_time_ms=12.0,
            review_advised=review_advised,
        )

    return make


def _finding(label: Label, probability: float, shape: tuple[int, int], regions: int) -> Finding:
    present = probability >= label.thresholds.high
    centres = [(shape[1] * (0.3 + 0.4 * n), shape[0] * 0.6) for n in range(regions)]
    radius = 0.15 * min(shape)
    return Finding(
        label=label,
        logit=0.0,
        probability=probability,
        calibrated_probability=probability,
        heatmap=_heatmap(shape, radius) if present else None,
        regions=tuple(_circle(x, y, radius) for x, y in centres) if present else (),
    )


def _heatmap(shape: tuple[int, int], radius: float) -> Heatmap:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    distance = ((columns - shape[1] * 0.3) ** 2 + (rows - shape[0] * 0.6) ** 2) / radius**2
    noise = np.random.default_rng(11).uniform(0.0, 0.05, shape)
    return Heatmap(values=np.clip(np.exp(-distance) + noise, 0.0, 1.0).astype(np.float32), method="Grad-CAM")


def _circle(x: float, y: float, radius: float) -> Region:
    angle = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
    points = np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)
    return Region(points=points.astype(np.float32))


WriteRead = Callable[[Dataset], Dataset]


@pytest.fixture
def write_read(tmp_path: Path) -> WriteRead:
    """Writes an object to a file and reads it back."""

    def round_trip(dataset: Dataset) -> Dataset:
        path = tmp_path / f"{dataset.SOPInstanceUID}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return pydicom.dcmread(path)

    return round_trip
