"""Overlays as Secondary Captures: their header and what can be seen in their pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage

from inference.findings import Analysis, Heatmap
from sr_writer import ReportContext, encode, write_results
from sr_writer.colour_map import blend, colours, opacities
from sr_writer.encoded import encoded_text
from sr_writer.overlay_picture import LEAST_HEIGHT, PANEL_WIDTH, PICTURE_SIZE

MakeAnalysis = Callable[..., Analysis]
MakeImage = Callable[..., Path]


def jpeg(context: ReportContext) -> ReportContext:
    return replace(context, overlay_compression="jpeg")


@pytest.fixture
def analysis(make_analysis: MakeAnalysis, make_image: MakeImage) -> Analysis:
    return make_analysis(make_image(Modality="DX", BodyPartExamined="CHEST", PatientOrientation=["L", "F"]))


@pytest.fixture
def overlay(analysis: Analysis, context: ReportContext, write_read: Callable[[Dataset], Dataset]) -> Dataset:
    return write_read(write_results([analysis], context)[1].dataset)


def test_overlay_is_a_derived_rgb_secondary_capture(overlay: Dataset, analysis: Analysis) -> None:
    assert overlay.SOPClassUID == SecondaryCaptureImageStorage
    assert overlay.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert list(overlay.ImageType) == ["DERIVED", "SECONDARY"]
    assert overlay.BurnedInAnnotation == "YES"
    assert overlay.ConversionType == "WSD"
    assert overlay.DerivationDescription == "Grad-CAM heat map for Pneumothorax blended over the source image"
    (source,) = overlay.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == analysis.source.sop_instance_uid
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert (overlay.Modality, overlay.BodyPartExamined) == ("DX", "CHEST")
    assert list(overlay.PatientOrientation) == ["L", "F"]
    assert (overlay.SeriesNumber, overlay.SeriesDescription) == (9002, "overread cxr: overlays")
    assert "PixelSpacing" not in overlay


@pytest.mark.parametrize(
    ("image_orientation", "letters"),
    [
        (["1", "0", "0", "0", "1", "0"], ["L", "P"]),
        (["-1", "0", "0", "0", "-1", "0"], ["R", "A"]),
        (["0", "1", "0", "0", "0", "-1"], ["P", "F"]),
        (["0.9999", "0.0140", "-0.0002", "-0.014", "0.94", "-0.342"], ["L", "PF"]),
        (["0.6", "-0.8", "0", "0", "0", "1"], ["AL", "H"]),
        (["0", "0", "0", "0", "1", "0"], None),
        (["1", "0", "0"], None),
    ],
)
def test_sides_of_a_slice_derive_from_its_directions(
    image_orientation: list[str],
    letters: list[str] | None,
    make_analysis: MakeAnalysis,
    make_image: MakeImage,
    context: ReportContext,
) -> None:
    image = make_image(Modality="CT", ImageOrientationPatient=image_orientation)
    shown = write_results([make_analysis(image)], context)[1].dataset
    assert (list(shown.PatientOrientation) if shown.PatientOrientation else None) == letters


def test_sides_of_the_source_stand(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext
) -> None:
    def orientation(**attributes: object) -> list[str]:
        image = make_image(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"], **attributes)
        return list(write_results([make_analysis(image)], context)[1].dataset.PatientOrientation or [])

    assert orientation(PatientOrientation=["R", "F"]) == ["R", "F"]
    assert orientation(AnatomicalOrientationType="QUADRUPED") == []


def test_side_of_the_body_part_is_taken_over(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext
) -> None:
    def sides(name: str, **attributes: str) -> tuple[str | None, str | None]:
        shown = write_results([make_analysis(make_image(name, **attributes))], context)[1].dataset
        return shown.get("ImageLaterality"), shown.get("Laterality")

    assert sides("breast", Modality="MG", ImageLaterality="R") == ("R", None)
    assert sides("both", ImageLaterality="R", Laterality="R") == ("R", None)
    assert sides("wrong", ImageLaterality="X", Laterality="R") == (None, "R")


def test_picture_is_enlarged_and_the_panel_stands_beside_it(overlay: Dataset) -> None:
    pixels = overlay.pixel_array
    assert pixels.dtype == np.uint8
    assert pixels.shape == (PICTURE_SIZE, round(PICTURE_SIZE * 50 / 60) + PANEL_WIDTH, 3)


def test_wide_picture_leaves_room_for_the_panel(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext
) -> None:
    image = make_image(Rows=10, Columns=300)
    pixels = write_results([make_analysis(image)], context)[1].dataset.pixel_array
    assert pixels.shape == (LEAST_HEIGHT, PICTURE_SIZE + PANEL_WIDTH, 3)


def test_heat_colours_the_picture_and_cold_leaves_it_grey(analysis: Analysis, context: ReportContext) -> None:
    values = np.zeros(analysis.picture.shape, np.float32)
    values[30:, :25] = 1.0
    findings = tuple(
        replace(f, heatmap=Heatmap(values=values, method="Grad-CAM"), regions=()) for f in analysis.findings
    )
    pixels = write_results([replace(analysis, findings=findings)], context)[1].dataset.pixel_array.astype(int)
    cold, hot = pixels[50:450, 50:800], pixels[600:1000, 50:350]
    assert np.ptp(cold, axis=2).max() == 0
    assert (hot[..., 0] - hot[..., 2]).min() > 40


def test_legend_depends_on_certainty_and_engine(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext
) -> None:
    image = make_image()

    def panel(probability: float, of_context: ReportContext, deviation: float | None = None) -> np.ndarray:
        analysis = make_analysis(image, (0.1, probability, 0.1, 0.1), deviation=deviation)
        return write_results([analysis], of_context)[1].dataset.pixel_array[:, -PANEL_WIDTH:]

    assert (panel(0.90, context) != panel(0.70, context)).any()
    assert (panel(0.90, context) != panel(0.90, replace(context, engine_name="other"))).any()
    np.testing.assert_array_equal(panel(0.90, context), panel(0.90, context))
    steady, unsteady = panel(0.90, context, 0.01), panel(0.90, context, 0.04)
    assert steady.shape == unsteady.shape
    assert (steady != unsteady).any()


@pytest.mark.parametrize("name", ["A" * 200, "wide " * 60, "\u80ba\u708e", ""])
def test_any_label_and_engine_name_can_be_drawn(
    name: str, analysis: Analysis, context: ReportContext
) -> None:
    findings = tuple(replace(f, label=replace(f.label, name=name + f.label.name)) for f in analysis.findings)
    written = write_results(
        [replace(analysis, findings=findings)], replace(context, engine_name=name or "cxr")
    )
    assert len(written) == 3


def test_lossy_source_makes_a_lossy_overlay(
    make_analysis: MakeAnalysis,
    make_image: MakeImage,
    jpeg_image: Path,
    monochrome1_image: Path,
    context: ReportContext,
) -> None:
    in_jpeg = write_results([make_analysis(jpeg_image)], context)[1].dataset
    once_lossy = write_results([make_analysis(monochrome1_image)], context)[1].dataset
    never_lossy = write_results([make_analysis(make_image())], context)[1].dataset
    assert (in_jpeg.LossyImageCompression, in_jpeg.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert float(in_jpeg.LossyImageCompressionRatio) > 1
    assert once_lossy.LossyImageCompression == "01"
    assert "LossyImageCompression" not in never_lossy


def test_compressed_overlay_is_jpeg_baseline_and_says_that_it_lost_something(
    analysis: Analysis, context: ReportContext, write_read: Callable[[Dataset], Dataset]
) -> None:
    plain = write_results([analysis], context)
    report, compressed = [w.dataset for w in write_results([analysis], jpeg(context))[:2]]
    read = write_read(compressed)
    assert read.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert (read.PhotometricInterpretation, read.SamplesPerPixel) == ("YBR_FULL_422", 3)
    assert (read.LossyImageCompression, read.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    pixels = plain[1].dataset.pixel_array
    (frame,) = generate_frames(read.PixelData, number_of_frames=1)
    assert float(read.LossyImageCompressionRatio) == pytest.approx(pixels.nbytes / len(frame), rel=0.01)
    difference = pixel_array(read).astype(int) - pixels
    assert 10 * np.log10(255**2 / np.mean(difference**2)) > 38
    # A picture with loss is another instance, and the report refers to that one.
    assert read.SOPInstanceUID != plain[1].dataset.SOPInstanceUID
    assert read.SOPInstanceUID in str(report)


def result_values(dataset: Dataset, *keywords: str) -> list[list[str]]:
    """The values of each attribute as text."""
    return [encoded_text(dataset, keyword).split("\\") for keyword in keywords]


def test_compressed_overlay_lists_the_losses_of_its_source_first(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext
) -> None:
    def losses(**attributes: object) -> tuple[list[str], list[float]]:
        image = make_image(LossyImageCompression="01", **attributes)
        shown = write_results([make_analysis(image)], jpeg(context))[1].dataset
        said = result_values(shown, "LossyImageCompressionMethod", "LossyImageCompressionRatio")
        return said[0], [float(ratio) for ratio in said[1]]

    methods, ratios = losses(LossyImageCompressionMethod="ISO_15444_1", LossyImageCompressionRatio="12.5")
    assert methods == ["ISO_15444_1", "ISO_10918_1"]
    assert (len(ratios), ratios[0]) == (2, 12.5)
    # A method without a ratio would make ours look like its ratio.
    methods, ratios = losses(LossyImageCompressionMethod="ISO_15444_1")
    assert (methods, len(ratios)) == (["ISO_10918_1"], 1)


def test_compressed_overlay_of_a_noisy_radiograph_is_at_most_one_and_a_half_megabytes(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext
) -> None:
    analysis = make_analysis(make_image())
    noise = np.random.default_rng(3).normal(128, 25, (1024, 1024)).clip(0, 255).astype(np.uint8)
    heat = Heatmap(
        values=np.linspace(0, 1, noise.size, dtype=np.float32).reshape(noise.shape), method="Grad-CAM"
    )
    findings = tuple(replace(f, heatmap=heat, regions=()) for f in analysis.findings[:1])
    noisy = replace(analysis, picture=noise, findings=findings)
    assert len(encode(write_results([noisy], jpeg(context))[1])) < 1_500_000


def test_colours_grow_lighter_with_the_value() -> None:
    lightness = colours().astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -1.5).all()
    assert lightness[-1] - lightness[0] > 100
    assert opacities()[0] == 0.0
    assert (np.diff(opacities()) >= 0.0).all()


def test_anatomy_stays_visible_under_the_strongest_heat() -> None:
    picture = np.array([[0, 255]], np.uint8)
    dark, bright = np.asarray(blend(picture, np.full_like(picture, 255)))[0].astype(int)
    assert (bright - dark).min() > 100
