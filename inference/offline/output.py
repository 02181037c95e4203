"""Analyses as the JSON objects of ``overread infer --json`` and of job summaries.

The arrays of a case are in the order of its ``labels``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inference.findings import Analysis, Heatmap, Refusal

OVERLAY = "overlay-"
"""First part of the file names of overlays."""


def case_document(analysis: Analysis, engine: str, folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """The document of one analysed case; its heat maps are written as grey PNG files.

    Args:
        analysis: of the case.
        engine: name of the engine.
        folder: for the heat maps.
        files: reports and overlays that are already written for the case.
    """
    heatmaps = {label: _write_heatmap(heatmap, label, folder) for label, heatmap in analysis.heatmaps.items()}
    findings = analysis.findings
    is_ensemble = any(finding.ensemble_std is not None for finding in findings)
    prediction = analysis.prediction
    return {
        "input": str(analysis.source.path),
        "series_instance_uid": analysis.source.series_instance_uid or None,
        "engine": engine,
        "model_version": analysis.model.version,
        "device": analysis.device,
        "labels": list(analysis.labels),
        "logits": [finding.logit for finding in findings],
        "probabilities": [finding.probability for finding in findings],
        "calibrated_probabilities": [finding.calibrated_probability for finding in findings],
        "ensemble_std": [finding.ensemble_std for finding in findings] if is_ensemble else None,
        "individual_predictions": [list(f.individual_predictions) for f in findings] if is_ensemble else None,
        "ensemble_size": analysis.ensemble_size,
        "tta_applied": analysis.tta_applied,
        "prediction": None if prediction is None else prediction[0],
        "confidence": None if prediction is None else round(prediction[1], 4),
        "negative_class": _absence(analysis),
        "heatmaps": {label: str(path) for label, path in heatmaps.items()},
        "overlay_available": any(path.name.startswith(OVERLAY) for path in files),
        "inference_time_ms": round(analysis.inference_time_ms, 3),
        "review_advised": analysis.review_advised,
        "disclaimer": analysis.disclaimer or None,
        "skipped": None,
        "files": [str(path) for path in (*files, *heatmaps.values())],
        **_reasoning(analysis),
        **detection_document(analysis),
        **_structures(analysis),
    }


def _absence(analysis: Analysis) -> dict[str, Any] | None:
    """The value of ``negative_class``: the result for the class that means that nothing was found."""
    if analysis.absence is None:
        return None
    return {
        "label": analysis.absence.name,
        "logit": analysis.absence.logit,
        "probability": analysis.absence.probability,
        "calibrated_probability": analysis.absence.calibrated_probability,
    }


def _structures(analysis: Analysis) -> dict[str, Any]:
    """The key ``structures`` of engines that segment: the name and volume of each structure."""
    if analysis.segmentation is None:
        return {}
    return {
        "structures": [
            {"name": structure.name, "volume_ml": round(structure.volume_mm3 / 1000, 4)}
            for structure in analysis.segmentation.structures
        ]
    }


def detection_document(analysis: Analysis) -> dict[str, Any]:
    """The keys ``detections`` and ``summary`` of engines that detect, in the format of PIVOT's "Inference Guide".

    ``coordinates`` are (x, y, z) in mm from the first voxel of the series as it was scanned: across columns, rows
    and slices. ``coordinates_voxel`` are the same in voxels, and ``patient_coordinates`` are LPS in mm.
    ``diameters_mm`` are the extents of the mask along the same axes: its voxels times their spacing.
    """
    if analysis.volume is None or analysis.detections is None:
        return {}
    across, down, along = analysis.volume.spacing
    detections = [
        {
            "id": detection.number - 1,
            "coordinates": [
                round(detection.position[2] * along, 2),
                round(detection.position[1] * down, 2),
                round(detection.position[0] * across, 2),
            ],
            "coordinates_voxel": list(reversed(detection.voxel)),
            "patient_coordinates": [round(value, 2) for value in detection.centre],
            "diameter_mm": round(detection.diameter_mm, 2),
            "confidence": round(detection.certainty, 4),
            "properties": {
                "volume_mm3": round(detection.volume_mm3, 2),
                "diameters_mm": [round(length, 2) for length in reversed(detection.diameters_mm)],
                "mean_intensity": round(detection.mean_hu, 2),
                "std_intensity": round(detection.std_hu, 2),
                "sphericity": round(detection.sphericity, 4),
            },
            "triage": {
                "malignancy_score": None if detection.malignancy is None else round(detection.malignancy, 4),
                "risk_category": detection.risk,
            },
        }
        for detection in analysis.detections
    ]
    risks = [detection.risk for detection in analysis.detections]
    return {
        "detections": detections,
        "summary": {
            "num_detections": len(detections),
            "high_risk_count": risks.count("high"),
            "low_risk_count": risks.count("low"),
            "processing_time_seconds": round(analysis.inference_time_ms / 1000, 3),
        },
    }


def _reasoning(analysis: Analysis) -> dict[str, Any]:
    """The key ``reasoning`` of engines that give reasons; a bias and its contributions add up to each logit."""
    if not analysis.reasoning:
        return {}
    return {
        "reasoning": [
            {
                "label": reasoning.label,
                "logit": reasoning.logit,
                "bias": reasoning.bias,
                "contributions": [
                    {
                        "concept": c.concept,
                        "prototype": c.prototype,
                        "weight": c.weight,
                        "similarity": c.similarity,
                        "contribution": c.amount,
                    }
                    for c in reasoning.contributions
                ],
            }
            for reasoning in analysis.reasoning
        ]
    }


def refusal_document(refusal: Refusal, engine: str, model_version: str) -> dict[str, Any]:
    """The document of an input that the engine does not take: the same keys, but empty, and the reason."""
    return {
        "input": str(refusal.path),
        "series_instance_uid": None,
        "engine": engine,
        "model_version": model_version,
        "device": None,
        "labels": [],
        "logits": [],
        "probabilities": [],
        "calibrated_probabilities": [],
        "ensemble_std": None,
        "individual_predictions": None,
        "ensemble_size": None,
        "tta_applied": None,
        "prediction": None,
        "confidence": None,
        "negative_class": None,
        "heatmaps": {},
        "overlay_available": False,
        "inference_time_ms": None,
        "review_advised": None,
        "disclaimer": None,
        "skipped": refusal.reason,
        "files": [],
    }


def stage_summary(analyses: Sequence[Analysis]) -> dict[str, Any]:
    """How a job's analyses were made: model, device, ensemble, and the sum of their times."""
    first = analyses[0]
    return {
        "model_used": first.model.name,
        "device": first.device,
        "ensemble_size": first.ensemble_size,
        "tta_applied": first.tta_applied,
        "inference_time_ms": round(sum(analysis.inference_time_ms for analysis in analyses), 3),
        "heatmap_generated": any(analysis.heatmaps for analysis in analyses),
    }


def _write_heatmap(heatmap: Heatmap, label: str, folder: Path) -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    path = folder / f"heatmap-{name}.png"
    Image.fromarray(np.rint(heatmap.values * 255).astype(np.uint8)).save(path)
    return path
