"""A Structured Report as an indented text tree, for people at a terminal.

References: PS3.3 section C.17.3 (SR Document Content) and table C.17.3-7 (value types).
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

_INDENT = "  "


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
