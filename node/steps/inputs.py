"""The cases of files: what an engine selects of them, as a node selects of a study."""

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
    """The files of one case, or why the engine is not asked about them."""

    files: Sequence[Path]
    series_instance_uid: str = ""
    refused: str | None = None


def inputs_of(item: Input) -> Inputs:
    """The files of an input, or its refusal."""
    return item.files if item.refused is None else Refusal(path=item.files[0], reason=item.refused)


def is_image(path: Path) -> bool:
    """Whether a file says that it is DICOM (PS3.10 section 7.1), PNG or JPEG; what is wrong with it shows later."""
    if is_plain_picture(path):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"
    except OSError:
        return False


def select(engine: Engine, files: Sequence[Path]) -> list[Input]:
    """The inputs of an engine, of which it sees only those that it selects by their headers, as in a node.

    Plain pictures have no header, and damaged files none that can be read: the engine says what is wrong with them.
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
    """What selection needs of a file; None where its header cannot be read."""
    try:
        return read_header(path, engine.header_keywords | {"SeriesInstanceUID"})
    except ImageUnreadable:
        return None
