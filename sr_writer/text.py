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
    """One measurement group as a line of a table; ``certainty_percent`` is in [0, 100].

    ``deviation_percent`` is the standard deviation of the certainty over members and views, None where there is one.
    """

    finding: str
    certainty_percent: float
    deviation_percent: float | None
    presence: str
    severity: str


def findings_table(report: Dataset) -> list[FindingRow]:
    """The findings of a report that carry a certainty, the most certain first."""
    rows = [row for group in _containers(report) if (row := _row(group)) is not None]
    return sorted(rows, key=lambda row: -row.certainty_percent)


def _containers(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or []:
        if child.get("ValueType") == "CONTAINER":
            yield child
            yield from _containers(child)


def _row(group: Dataset) -> FindingRow | None:
    content = group.get("ContentSequence") or []
    values = {_concept(child): child for child in content}
    certainties = {
        any(_concept(modifier) == _DERIVATION for modifier in child.get("ContentSequence") or []): child
        for child in content
        if _concept(child) == _CERTAINTY_OF_FINDING and child.get("MeasuredValueSequence")
    }
    if False not in certainties:
        return None
    text = {
        concept: _value(values[concept]) if concept in values else ""
        for concept in (_FINDING, _PRESENCE_OF_PROPERTY, _SEVERITY_LEVEL)
    }
    return FindingRow(
        finding=text[_FINDING],
        certainty_percent=_measured(certainties[False]),
        deviation_percent=_measured(certainties[True]) if True in certainties else None,
        presence=text[_PRESENCE_OF_PROPERTY],
        severity=text[_SEVERITY_LEVEL],
    )


def _measured(item: Dataset) -> float:
    return float(item.MeasuredValueSequence[0].NumericValue)


def _concept(item: Dataset) -> str:
    """Code value of an item's concept name, empty where it has none."""
    concepts = item.get("ConceptNameCodeSequence")
    return str(concepts[0].get("CodeValue", "")) if concepts else ""


def render_text(report: Dataset) -> str:
    """The content tree of a report, one content item a line.

    Patient and study are not part of it. An object without a content tree gives an empty string.
    """
    return "\n".join(_lines(report, 0)) if "ValueType" in report else ""


def _lines(item: Dataset, depth: int) -> Iterator[str]:
    name = _meaning(item, "ConceptNameCodeSequence")
    value = _value(item)
    yield _INDENT * depth + (f"{name}: {value}" if name and value else name or value)
    for child in item.get("ContentSequence") or []:
        yield from _lines(child, depth + 1)


def _meaning(item: Dataset, keyword: str) -> str:
    """Meaning of a coded attribute, empty where the item has none."""
    concepts = item.get(keyword)
    return str(concepts[0].get("CodeMeaning", "")) if concepts else ""


def _value(item: Dataset) -> str:
    """Value of a content item as text; containers have none."""
    match item.get("ValueType"):
        case "CODE":
            return _meaning(item, "ConceptCodeSequence")
        case "TEXT":
            return str(item.get("TextValue", ""))
        case "NUM":
            return _number(item)
        case "UIDREF":
            return str(item.get("UID", ""))
        case "PNAME":
            return str(item.get("PersonName", ""))
        case "DATE" | "TIME" | "DATETIME" as kind:
            return str(item.get({"DATE": "Date", "TIME": "Time", "DATETIME": "DateTime"}[kind], ""))
        case "IMAGE" | "COMPOSITE" as kind:
            return _reference(item, kind)
        case "SCOORD" | "SCOORD3D":
            return _coordinates(item)
        case _:
            return ""


def _number(item: Dataset) -> str:
    measured = item.get("MeasuredValueSequence")
    if not measured:
        return ""
    unit = measured[0].get("MeasurementUnitsCodeSequence")
    return f"{measured[0].NumericValue} {unit[0].CodeValue if unit else ''}".strip()


def _reference(item: Dataset, kind: str) -> str:
    referenced = item.get("ReferencedSOPSequence")
    if not referenced:
        return ""
    instance = referenced[0]
    frame = f", frame {instance.ReferencedFrameNumber}" if "ReferencedFrameNumber" in instance else ""
    return f"{kind.lower()} {instance.ReferencedSOPInstanceUID}{frame}"


def _coordinates(item: Dataset) -> str:
    graphic = str(item.get("GraphicType", ""))
    dimensions = 3 if item.ValueType == "SCOORD3D" else 2
    return f"{graphic.lower()}, {len(item.get('GraphicData') or []) // dimensions} points"
