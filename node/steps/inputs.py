"""Groups files into inputs of an engine, by the same selection as in a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inference.engine import Engine
from inference.errors import ImageUnreadable
from inference.findings import Refusal
from inference.headers import ImageHeader
from inference.reading.files import read_header
from inference.reading.plain import is_plain_picture
from node.steps.batches import Inputs

NOT_SELECTED = "the engine does not select it"


@dataclass(frozen=True, kw_only=True)
class Input:
    """The files of one case. ``refused`` is why the engine does not get them."""

    files: Sequence[Path]
    series_instance_uid: str = ""
    refused: str | None = None


def inputs_of(item: Input) -> Inputs:
    """The files of an input, or its refusal, for ``Batches``."""
    return item.files if item.refused is None else Refusal(path=item.files[0], reason=item.refused)


def is_image(path: Path) -> bool:
    """Whether a file begins like DICOM (PS3.10 section 7.1), PNG or JPEG. It may still be damaged."""
    if is_plain_picture(path):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"
    except OSError:
        return False


def select(engine: Engine, files: Sequence[Path]) -> list[Input]:
    """Group files into inputs of an engine. Those that it does not select by their headers are marked as refused.

    Plain pictures and files with an unreadable header are inputs of their own, since the engine says best what is
    wrong with them.

    Args:
        engine: a loaded engine.
        files: DICOM files and plain pictures.

    Returns:
        The inputs in the order of their first files. A series is one input if the engine takes series.
    """
    inputs: dict[Path, Input] = {}
    series: dict[str, list[tuple[ImageHeader, Path]]] = {}
    for file in files:
        header = None if is_plain_picture(file) else _header(engine, file)
        if header is None:
            inputs[file] = Input(files=[file])
        else:
            series.setdefault(header.first("SeriesInstanceUID"), []).append((header, file))
    for series_uid, members in series.items():
        selection = engine.select([header for header, _ in members])
        by_uid: dict[str, list[Path]] = {}
        for header, file in members:
            by_uid.setdefault(header.sop_instance_uid, []).append(file)
        if engine.takes_series:
            chosen = [file for uid in dict.fromkeys(selection.inputs) for file in by_uid[uid]]
            inputs[members[0][1]] = Input(
                files=chosen or [file for _, file in members],
                series_instance_uid=series_uid,
                refused=None if chosen else selection.reasons or NOT_SELECTED,
            )
            continue
        for header, file in members:
            uid = header.sop_instance_uid
            reason = None if uid in selection.inputs else selection.refused.get(uid, NOT_SELECTED)
            inputs[file] = Input(files=[file], series_instance_uid=series_uid, refused=reason)
    return [inputs[file] for file in files if file in inputs]


def _header(engine: Engine, path: Path) -> ImageHeader | None:
    """The header of a file for selection; None where it cannot be read."""
    try:
        return read_header(path, engine.header_keywords | {"SeriesInstanceUID"})
    except ImageUnreadable:
        return None
