"""A Structured Report as an indented text tree, for people at a terminal.

References: PS3.3 section C.17.3 (SR Document Content) and table C.17.3-7 (value types).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset

_INDENT = "  "
_CERTAINTY_OF_FINDING = "111012"
_DERIVATION = "121401"
_FINDING = "121071"
_PRESENCE_OF_PROPERTY = "121052"
_SEVERITY_LEVEL = "SEVERITY"


@dataclass(frozen=True, kw_only=True)
class FindingRow:
    """A measurement group as a row of a table; ``certainty_percent`` lies in [0, 100].

    ``deviation_percent`` is the standard deviation of the certainty over ensemble members and augmented views, None
    if there is only one.
    """

    finding: str
    certainty_percent: float
    deviation_percent: float | None
    presence: str
    severity: str


def findings_table(report: Dataset) -> list[FindingRow]:
    """The findings of a report that carry a certainty, the most certain first."""
    rows = [row for group in _containers(report) if (row := _finding_row(group)) is not None]
    return sorted(rows, key=lambda row: -row.certainty_percent)


def _containers(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or []:
        if child.get("ValueType") == "CONTAINER":
            yield child
            yield from _containers(child)


def _finding_row(group: Dataset) -> FindingRow | None:
    content = group.get("ContentSequence") or []
    values = {_concept_code(child): child for child in content}
    certainties = {
        any(_concept_code(modifier) == _DERIVATION for modifier in child.get("ContentSequence") or []): child
        for child in content
        if _concept_code(child) == _CERTAINTY_OF_FINDING and child.get("MeasuredValueSequence")
    }
    if False not in certainties:
        return None
    text = {
        concept: _value_text(values[concept]) if concept in values else ""
        for concept in (_FINDING, _PRESENCE_OF_PROPERTY, _SEVERITY_LEVEL)
    }
    return FindingRow(
        finding=text[_FINDING],
        certainty_percent=_numeric_value(certainties[False]),
        deviation_percent=_numeric_value(certainties[True]) if True in certainties else None,
        presence=text[_PRESENCE_OF_PROPERTY],
        severity=text[_SEVERITY_LEVEL],
    )


def _numeric_value(item: Dataset) -> float:
    return float(item.MeasuredValueSequence[0].NumericValue)


def _concept_code(item: Dataset) -> str:
    """Code value of an item's concept name, empty if it has none."""
    concepts = item.get("ConceptNameCodeSequence")
    return str(concepts[0].get("CodeValue", "")) if concepts else ""


def render_text(report: Dataset) -> str:
    """The content tree of a report, one content item per line, indented by depth.

    Patient and study are not part of it. For an object without a content tree, the text is empty.
    """
    return "\n".join(_tree_lines(report, 0)) if "ValueType" in report else ""


def _tree_lines(item: Dataset, depth: int) -> Iterator[str]:
    name = _code_meaning(item, "ConceptNameCodeSequence")
    value = _value_text(item)
    yield _INDENT * depth + (f"{name}: {value}" if name and value else name or value)
    for child in item.get("ContentSequence") or []:
        yield from _tree_lines(child, depth + 1)


def _code_meaning(item: Dataset, keyword: str) -> str:
    """Meaning of a coded attribute, empty if the item does not have it."""
    concepts = item.get(keyword)
    return str(concepts[0].get("CodeMeaning", "")) if concepts else ""


def _value_text(item: Dataset) -> str:
    """Value of a content item as text, empty for containers."""
    match item.get("ValueType"):
        case "CODE":
            return _code_meaning(item, "ConceptCodeSequence")
        case "TEXT":
            return str(item.get("TextValue", ""))
        case "NUM":
            return _number_text(item)
        case "UIDREF":
            return str(item.get("UID", ""))
        case "PNAME":
            return str(item.get("PersonName", ""))
        case "DATE" | "TIME" | "DATETIME" as kind:
            return str(item.get({"DATE": "Date", "TIME": "Time", "DATETIME": "DateTime"}[kind], ""))
        case "IMAGE" | "COMPOSITE" as kind:
            return _reference_text(item, kind)
        case "SCOORD" | "SCOORD3D":
            return _coordinates_text(item)
        case _:
            return ""


def _number_text(item: Dataset) -> str:
    measured = item.get("MeasuredValueSequence")
    if not measured:
        return ""
    unit = measured[0].get("MeasurementUnitsCodeSequence")
    return f"{measured[0].NumericValue} {unit[0].CodeValue if unit else ''}".strip()


def _reference_text(item: Dataset, kind: str) -> str:
    referenced = item.get("ReferencedSOPSequence")
    if not referenced:
        return ""
    instance = referenced[0]
    frame = f", frame {instance.ReferencedFrameNumber}" if "ReferencedFrameNumber" in instance else ""
    return f"{kind.lower()} {instance.ReferencedSOPInstanceUID}{frame}"


def _coordinates_text(item: Dataset) -> str:
    graphic = str(item.get("GraphicType", ""))
    dimensions = 3 if item.ValueType == "SCOORD3D" else 2
    return f"{graphic.lower()}, {len(item.get('GraphicData') or []) // dimensions} points"
