"""Files about nodules for people and programs without DICOM, as PIVOT's "Inference Guide" describes them.

These are the detections as JSON and CSV, the heat map as NIfTI on the pixels of the series, a montage of slices,
the distribution of certainties, an interactive view in 3D, and a report of a few pages.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.findings import Analysis, Detection, KeyImage, ScannedVolume, VolumeData
from inference.offline.output import detection_document

MONTAGE_SLICES = 5
ALPHA = 0.5
"""Opacity of a heat map where it is 1."""
SURFACE_HU = -500.0
"""Value at the body's surface in the 3D view."""
SURFACE_STEP = 4
"""The 3D view samples the body every so many voxels."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_nodule_files(analysis: Analysis, folder: Path) -> list[Path]:
    """Write all files of one analysis into a folder.

    Returns:
        The paths of the files.

    Raises:
        ValueError: the analysis is not one of a volume with detections.
        OSError: a file cannot be written.
    """
    if analysis.volume is None or analysis.volume.data is None or analysis.detections is None:
        raise ValueError("only analyses with detections in a volume have these files")
    volume, data, detections = analysis.volume, analysis.volume.data, analysis.detections
    scan = analysis.source.series_instance_uid or folder.name
    paths = {
        name: folder / f"scan_{name}"
        for name in (
            "detections.json",
            "detections.csv",
            "heatmap.nii.gz",
            "visualization.png",
            "confidence_distribution.png",
            "3d_rendering.html",
            "report.pdf",
        )
    }
    paths["detections.json"].write_text(json.dumps(_nodule_document(analysis, volume, scan), indent=2) + "\n")
    _write_csv(analysis, scan, paths["detections.csv"])
    _write_heat_map(volume.shape, data, paths["heatmap.nii.gz"])
    _write_montage(analysis, paths["visualization.png"])
    _write_distribution(detections, paths["confidence_distribution.png"])
    _write_rendering(detections, data, paths["3d_rendering.html"])
    _write_report(analysis, detections, paths["report.pdf"])
    return list(paths.values())


def _nodule_document(analysis: Analysis, volume: ScannedVolume, scan: str) -> dict[str, Any]:
    return {
        "scan_id": scan,
        "model": f"{analysis.model.name} {analysis.model.version}",
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "metadata": {
            "spacing": [round(value, 4) for value in reversed(volume.spacing)],
            "shape": list(reversed(volume.shape)),
        },
        **detection_document(analysis),
    }


def _write_csv(analysis: Analysis, scan: str, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            "scan_id,detection_id,coord_x,coord_y,coord_z,diameter_mm,confidence,malignancy_score,risk_category".split(
                ","
            )
        )
        for detection in detection_document(analysis)["detections"]:
            triage = detection["triage"]
            writer.writerow(
                [
                    scan,
                    detection["id"],
                    *detection["coordinates"],
                    detection["diameter_mm"],
                    detection["confidence"],
                    triage["malignancy_score"],
                    triage["risk_category"],
                ]
            )


def _write_heat_map(shape: tuple[int, int, int], data: VolumeData, path: Path) -> None:
    """Write the heat map in [0, 1] at the pixels of the series, with each slice sampled at its own position.

    The affine of NIfTI has one step between slices: the mean step from the first to the last slice. A tilted gantry
    makes it a shear, and uneven gaps appear as their mean.
    """
    import nibabel

    from inference.volumes.resampling import to_planes

    heat = to_planes(data.heat, data.affine, data.planes, shape[1:], order=1)
    first, last = data.planes[0], data.planes[-1]
    step = (last[:, 2] - first[:, 2]) / (len(data.planes) - 1)
    affine = _LPS_TO_RAS @ np.stack([first[:, 1], first[:, 0], step, first[:, 2]], axis=1)
    nibabel.save(nibabel.Nifti1Image(np.clip(heat, 0, 1).transpose(2, 1, 0), affine), path)


def _heat_overlay(image: KeyImage) -> NDArray[np.float32]:
    """The picture of a key image with its heat map over it, RGB in [0, 1]."""
    from matplotlib import colormaps

    grey = np.repeat(image.picture[..., None].astype(np.float32) / 255, 3, axis=2)
    heat = image.heatmap.values[..., None]
    return np.asarray(
        grey * (1 - ALPHA * heat) + colormaps["hot"](image.heatmap.values)[..., :3] * ALPHA * heat
    )


def _figure(columns: int, rows: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _montage_figure(analysis: Analysis) -> Any:
    shown = analysis.key_images[:MONTAGE_SLICES]
    figure, axes = _figure(max(1, len(shown)), 1)
    if not shown:
        axes[0, 0].imshow(analysis.picture, cmap="gray")
        axes[0, 0].set_title("no nodule")
    for axis, image in zip(axes[0], shown, strict=False):
        axis.imshow(_heat_overlay(image))
        axis.set_title(f"{image.title}\ncertainty {image.certainty:.0%}", fontsize=8)
    for axis in axes[0]:
        axis.axis("off")
    return figure


def _write_montage(analysis: Analysis, path: Path) -> None:
    _montage_figure(analysis).savefig(path, dpi=100)


def _distribution_figure(detections: Sequence[Detection]) -> Any:
    figure, axes = _figure(2, 1)
    axis = axes[0, 0]
    axis.hist([d.certainty for d in detections], bins=np.linspace(0, 1, 21), color="tab:blue")
    axis.set(xlabel="certainty", ylabel="nodules", title="certainty")
    axis = axes[0, 1]
    axis.scatter([d.diameter_mm for d in detections], [d.certainty for d in detections], s=18)
    axis.set(xlabel="diameter in mm", ylabel="certainty", ylim=(0, 1), title="by size")
    return figure


def _write_distribution(detections: Sequence[Detection], path: Path) -> None:
    _distribution_figure(detections).savefig(path, dpi=100)


def _write_rendering(detections: Sequence[Detection], data: VolumeData, path: Path) -> None:
    """Write a web page with the surface of the body and the nodules in 3D, in patient coordinates (LPS, mm)."""
    import plotly.graph_objects as plotly
    from skimage.measure import marching_cubes

    figure = plotly.Figure()
    coarse = data.values[::SURFACE_STEP, ::SURFACE_STEP, ::SURFACE_STEP]
    if min(coarse.shape) > 1 and coarse.min() < SURFACE_HU < coarse.max():
        vertices, faces, _, _ = marching_cubes(coarse, SURFACE_HU)
        points = vertices * SURFACE_STEP @ data.affine[:3, :3].T + data.affine[:3, 3]
        figure.add_trace(
            plotly.Mesh3d(
                **dict(zip("xyz", points.T, strict=True)),
                **dict(zip("ijk", faces.T, strict=True)),
                opacity=0.12,
                color="lightgray",
                name="surface",
            )
        )
    for detection in detections:
        x, y, z = detection.centre
        figure.add_trace(
            plotly.Scatter3d(
                x=[x],
                y=[y],
                z=[z],
                mode="markers",
                marker={"size": max(4, detection.diameter_mm), "color": "red", "opacity": 0.8},
                name=f"nodule {detection.number}: {detection.diameter_mm:.1f} mm, {detection.certainty:.0%}",
            )
        )
    figure.update_layout(title="AI result, not reviewed", scene={"aspectmode": "data"})
    figure.write_html(path, include_plotlyjs=True)


def _write_report(analysis: Analysis, detections: Sequence[Detection], path: Path) -> None:
    from matplotlib.backends.backend_pdf import PdfPages

    with PdfPages(path) as pages:
        pages.savefig(_summary_page(analysis, detections))
        pages.savefig(_montage_figure(analysis))
        pages.savefig(_distribution_figure(detections))


def _summary_page(analysis: Analysis, detections: Sequence[Detection]) -> Any:
    figure, axes = _figure(2, 2)
    for axis in axes.ravel():
        axis.axis("off")
    lines = [
        "Lung nodules: AI result, not reviewed",
        f"model {analysis.model.name} {analysis.model.version}",
        *(("demonstration model, not for clinical use",) if analysis.model.demonstration else ()),
        f"{len(detections)} nodules",
        "",
        *(
            f"{d.number}: {d.diameter_mm:.1f} mm, {d.volume_mm3:.0f} mm3, mean {d.mean_hu:.0f} HU, "
            f"certainty {d.certainty:.0%}"
            + ("" if d.malignancy is None else f", malignancy {d.malignancy:.0%} ({d.risk} risk)")
            for d in detections
        ),
        "",
        *((f"review advised: {analysis.review_advised}",) if analysis.review_advised else ()),
        *((analysis.disclaimer,) if analysis.disclaimer else ()),
        *analysis.remarks,
    ]
    figure.text(0.06, 0.94, "\n".join(lines), va="top", fontsize=9)
    return figure
