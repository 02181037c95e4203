"""Codes and default thresholds of the pathologies that chest X-ray models name.

Listed are only codes that pydicom's dictionary of PS3.16 has for that very concept. For the others, a report uses
its private scheme.
"""

from __future__ import annotations

from inference.store.card_parts import CardLabel, Code, Thresholds
from inference.store.thresholds import thresholds_for

_LUNG = Code(value="39607008", scheme="SCT", meaning="Lung")
_PLEURA = Code(value="3120008", scheme="SCT", meaning="Pleura")
_HEART = Code(value="80891009", scheme="SCT", meaning="Heart")
_MEDIASTINUM = Code(value="72410000", scheme="SCT", meaning="Mediastinum")

_FINDINGS = {
    "Pneumothorax": Code(value="36118008", scheme="SCT", meaning="Pneumothorax"),
    "Edema": Code(value="19242006", scheme="SCT", meaning="Pulmonary edema"),
    "Effusion": Code(value="60046008", scheme="SCT", meaning="Pleural effusion"),
    "Fibrosis": Code(value="112674009", scheme="SCT", meaning="Fibrosis"),
    "Nodule": Code(value="27925004", scheme="SCT", meaning="Nodule"),
    "Mass": Code(value="4147007", scheme="SCT", meaning="Mass"),
}
_SITES = {
    **dict.fromkeys(
        (
            "Atelectasis",
            "Consolidation",
            "Infiltration",
            "Edema",
            "Emphysema",
            "Fibrosis",
            "Pneumonia",
            "Nodule",
            "Mass",
            "Lung Lesion",
            "Lung Opacity",
        ),
        _LUNG,
    ),
    **dict.fromkeys(("Effusion", "Pneumothorax", "Pleural_Thickening"), _PLEURA),
    "Cardiomegaly": _HEART,
    "Enlarged Cardiomediastinum": _MEDIASTINUM,
}


def chest_label(name: str, operating_point: float | None = None) -> CardLabel:
    """One output of a chest X-ray model; an output with an empty name was not trained."""
    limits = thresholds_for("chest_xray", name)
    return CardLabel(
        name=name,
        finding=_FINDINGS.get(name),
        site=_SITES.get(name),
        operating_point=operating_point,
        thresholds=Thresholds(low=limits.low, high=limits.high, critical=limits.critical),
    )
